"""Deployments, caches, experts and steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opbyte._lazy import declared

if TYPE_CHECKING:
    from opbyte.simulator.deploy.expert_maps import Dispatch as Dispatch
    from opbyte.simulator.deploy.expert_maps import flows as flows
    from opbyte.simulator.deploy.expert_parts import ExpertPart as ExpertPart
    from opbyte.simulator.deploy.expert_parts import sites_of as sites_of
    from opbyte.simulator.deploy.layout import Layout as Layout
    from opbyte.simulator.deploy.layout import planned_exchange as planned_exchange
    from opbyte.simulator.deploy.layout import shard_model as shard_model
    from opbyte.simulator.deploy.placement import processors_of as processors_of
    from opbyte.simulator.deploy.placement import split_experts as split_experts
    from opbyte.simulator.deploy.programs import all_reduce as all_reduce
    from opbyte.simulator.deploy.programs import all_to_all as all_to_all
    from opbyte.simulator.deploy.programs import gather_tokens as gather_tokens
    from opbyte.simulator.engine.kv import CacheSettings as CacheSettings
    from opbyte.simulator.engine.kv import kv_rules as kv_rules
    from opbyte.simulator.engine.kv import sequence_bytes as sequence_bytes
    from opbyte.simulator.engine.kv import sequences_that_fit as sequences_that_fit
    from opbyte.simulator.parts.expert_cache.cache import Chances as Chances
    from opbyte.simulator.parts.expert_cache.cache import ExpertCache as ExpertCache
    from opbyte.simulator.parts.expert_cache.cache import StepFetch as StepFetch
    from opbyte.simulator.parts.expert_cache.policies import CACHE_POLICIES as CACHE_POLICIES
    from opbyte.simulator.parts.expert_cache.store import ExpertStore as ExpertStore
    from opbyte.simulator.parts.expert_map.placing import ExpertPlacing as ExpertPlacing
    from opbyte.simulator.results.record import Run as Run
    from opbyte.simulator.scenario import Scenario as Scenario
    from opbyte.simulator.scenario.build import deployment_of as deployment_of
    from opbyte.simulator.scenario.build import run_scenario as run_scenario
    from opbyte.simulator.scenario.load import load as load
    from opbyte.simulator.step.explicit import StageCost as StageCost
    from opbyte.simulator.step.explicit import dealt as dealt
    from opbyte.simulator.step.explicit import explicit_stage as explicit_stage

__all__, __getattr__ = declared(__name__, __file__)

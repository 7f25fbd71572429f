"""What a part says of itself: options, what it cannot go with and why, where it is and is tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Combination:
    """What is asked of an engine and of the run that it is in, as far as it is known where it is looked at.

    Attributes
    ----------
    deployment, policy, cache
        `deploy.Deployment`, `batching.Policy` and `batching.CacheSettings` of the engine.
    pools, first
        `two_pools.Pools` of the run, and the first block of its requests.
    laned, fails, scaled : bool
        Whether requests wait by class, replicas fail, or come and go.
    """

    deployment: Any = None
    policy: Any = None
    cache: Any = None
    pools: Any = None
    first: Any = None
    laned: bool = False
    fails: bool = False
    scaled: bool = False

    def of(self, name: str) -> Any:
        """What the deployment has under a name; None without one."""
        return getattr(self.deployment, name, None)

    @property
    def rules(self) -> str:
        """The part whose scheduler the engine runs; empty: the library's own."""
        rules = getattr(self.policy, "rules", None)
        return "" if rules is None else str(rules.part)


@dataclass(frozen=True, slots=True)
class Part:
    """One feature of a serving engine or a fleet.

    Attributes
    ----------
    name, flags, title : str
        Its name, the options that ask for it, and a line on it.
    options : type, optional
        Class of its options (`option.CheckedOptions`).
    scope, panel : str
        Whether its options are a run's ("run") or change what a step costs ("deployment"); and where ``--help`` lists those of a run.
    page, tests
        Its page in docs, with its rules and evidence, and its tests below `tests`.
    also : sequence of str
        Modules below `simulator` that it shares with others, beside those of its package.
    cannot : mapping of str to str
        Parts that it cannot go with, each with the physical reason.
    asked : callable
        What is given, to the option that asks for the part, or to whether the first of `flags` does.
    """

    name: str
    flags: str
    title: str
    options: type[Any] | None = None
    scope: Literal["run", "deployment"] = "run"
    panel: str = "Engine"
    page: str = ""
    tests: Sequence[str] = ()
    also: Sequence[str] = ()
    cannot: Mapping[str, str] = field(default_factory=dict)
    asked: Callable[[Combination], object] = lambda a: None

"""How far the paper's expert splitter is from the best split, on uniform draws."""

from __future__ import annotations

from typing import Any

from opbyte.extend import Table

from .cases import BATCHES, ET, GLAM, GROK, MIXTRAL, PE, SIZES

DRAWS = 100
PROMPT = 1024
"""Tokens of the prompt in a mixed stage."""


def gaps() -> Table:
    """Seconds of the paper's split over the best subset of memory spaces, minus 1."""
    rows = [
        _gap(model, device, batch, prompt)
        for model, device in ((MIXTRAL, ET), (GLAM, PE), (GLAM, ET), (GROK, ET))
        for batch in BATCHES
        for prompt in (0, PROMPT)
    ]
    note = f"{DRAWS} samples of one device's experts each; 'splitter: optimal' in a system's mapping"
    return Table("splitter", "The paper's splitter against every subset of spaces", rows, note)


def _gap(model: str, device: str, batch: int, prompt: int) -> dict[str, Any]:
    import numpy as np

    from opbyte.extend import Loads, deploy, load_model, load_system
    from opbyte.extend.systems import processors_of, split_experts

    d = deploy(load_model(model), load_system(f"{device}-{SIZES[model]}"))
    part, spaces = d.experts[0], d.device.spec.memory.spaces
    main, near = processors_of(d.device)
    named = {p.name: p for p in (main, near)}
    rng = np.random.default_rng(0)
    found = []
    for _ in range(DRAWS):
        routed = part.spec.routed
        scores = rng.random((batch + prompt, routed.experts))
        picks = np.argpartition(scores, routed.top_k, axis=1)[:, : routed.top_k]
        tokens = np.bincount(picks.ravel(), minlength=routed.experts)
        op = part.spec.expert_op(Loads.drawn(tokens[: routed.experts // part.ep]), d.run)
        paper, best = (
            max(
                named[name].model.cost(ops[0]).seconds
                for name, ops in split_experts(op, main, near, spaces, splitter).tracks.items()
            )
            for splitter in ("paper", "optimal")
        )
        found.append(paper / best - 1)
    return {
        "model": model, "device": device, "batch": batch,
        "stage": "mixed" if prompt else "decoding-only",
        "mean gap": float(np.mean(found)), "largest gap": float(np.max(found)),
    }  # fmt: skip

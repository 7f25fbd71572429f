"""Rules of engines for steps that run as two halves: all ranks split their batch, or none does.

These are plain functions of numbers: the explicit path calls them in Python, simulations compile them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from ....workloads.batch import BASE_MOMENTS, DECODES, PREFILL_TOKENS, TOKENS, WINDOW_MOMENTS

F8 = npt.NDArray[np.float64]

GateRule = IntEnum("GateRule", "ALWAYS AT_LEAST ALIKE DECODING", start=0)
"""Rules of a `Gate`."""

MOST_TOKENS = 1 << 30
"""Largest threshold [tokens]."""

FORMS = ("two-batch:D,P", "two-batch:alike", "two-batch:decodes")


@dataclass(frozen=True, slots=True)
class Gate:
    """Which steps run as two halves.

    ``ALWAYS``: all steps. ``AT_LEAST``: every rank has the minimum tokens, and the smallest has more than half of the
    padded tokens of the largest: vLLM's rule (``check_ubatch_thresholds`` in vllm/v1/worker/ubatch_utils.py,
    ``_post_process_ubatch`` in vllm/v1/worker/dp_utils.py). ``ALIKE``: all busy ranks decode, or all have prompts, and
    ``DECODING``: no rank has prompts: SGLang's rules (``TboDPAttentionPreparer`` in
    sglang/srt/batch_overlap/two_batch_overlap.py), with normal and with low-latency kernels of DeepEP.

    Attributes
    ----------
    decodes, prompts : int
        Minimum tokens of a decode-only rank, and of one with prompts.
    """

    rule: int = GateRule.ALWAYS
    decodes: int = 0
    prompts: int = 0

    @property
    def row(self) -> tuple[int, int, int]:
        """Rule and thresholds, in the order of the gate array."""
        return self.rule, self.decodes, self.prompts


def gate_of(text: str) -> Gate | None:
    """Return the gate of a value of ``--overlap``; None if the value does not split a batch in two.

    Examples
    --------
    >>> gate_of("two-batch:32,512")
    Gate(rule=<GateRule.AT_LEAST: 1>, decodes=32, prompts=512)
    """
    kind, colon, rest = text.partition(":")
    if kind != "two-batch":
        return None
    if not colon:
        return Gate()
    if rest in ("alike", "decodes"):
        return Gate(GateRule.ALIKE if rest == "alike" else GateRule.DECODING)
    match = re.fullmatch(r"(\d{1,10}),(\d{1,10})", rest)
    if match is None or max(least := (int(match[1]), int(match[2]))) > MOST_TOKENS:
        return None
    return Gate(GateRule.AT_LEAST, *least)


def halved(rule: int, decodes: int, prompts: int, windows: int, moments: F8) -> bool:
    """Return whether a step runs as two halves.

    Parameters
    ----------
    rule, decodes, prompts : int
        Fields of a `Gate`.
    windows : int
        Number of attention windows.
    moments : float64 array, shape (ranks, moments)
        Sums of every rank's batch; the token count includes padding.
    """
    if rule == GateRule.ALWAYS:
        return True
    decoding, prompting, behind = 0.0, 0.0, BASE_MOMENTS + WINDOW_MOMENTS * windows
    fewest, most = np.inf, 0.0
    for r in range(moments.shape[0]):
        m = moments[r]
        tokens = m[DECODES] + m[PREFILL_TOKENS]
        if m.size - behind > 1:  # decodes that bring drafts
            tokens = m[behind] + m[PREFILL_TOKENS]
        decoding += m[DECODES]
        prompting += m[PREFILL_TOKENS]
        fewest, most = min(fewest, tokens), max(most, m[TOKENS])
        if rule == GateRule.AT_LEAST and tokens < (prompts if m[PREFILL_TOKENS] > 0.0 else decodes):
            return False
    if rule == GateRule.AT_LEAST:
        return bool(fewest > np.floor(most / 2.0))
    return bool(prompting == 0.0 or (rule == GateRule.ALIKE and decoding == 0.0))

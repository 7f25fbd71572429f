"""Terms of the field as OpByte uses them."""

from __future__ import annotations

TERMS = {
    "Op/B": "Operations for each byte moved from memory: of an op, never of a device.",
    "ridge point": "Op/B from which a processor is bound by its arithmetic: its rate over its bandwidth.",
    "roofline": "Time as the larger of operations over the attainable rate and bytes over the attainable bandwidth.",
    "bound": "What an op waits for: compute, memory, latency, or a link.",
    "TTFT": "Time to first token: from a request's arrival to its first output token [s].",
    "TPOT": "Time per output token after the first, one value a request [s].",
    "TBT": "Time between tokens: every gap between two tokens of a request [s].",
    "E2E": "From a request's arrival to its last token [s].",
    "engine and client times": "Without and with what a request spends outside the engine's steps: network, tokeniser, queues.",
    "prefill": "The steps that read a prompt and write its keys and values.",
    "decode": "The steps that make one token a sequence.",
    "chunked prefill": "Prompts cut to the tokens that a step has left beside its decodes.",
    "KV cache": "Keys and values of all tokens so far, in blocks of tokens.",
    "preemption": "Taking a running request's blocks away; it computes them again later.",
    "prefix cache": "Blocks of earlier prompts that a new prompt begins with, not computed again.",
    "MoE": "Mixture of experts: a router sends each token to a few of many feed-forward experts.",
    "top-k": "Experts that each token is sent to.",
    "TP": "Tensor parallel: each matrix cut over devices.",
    "EP": "Expert parallel: experts dealt to groups of devices.",
    "DP": "Data parallel: ranks that serve different requests, or train on different sequences.",
    "PP": "Pipeline parallel: layers dealt to stages.",
    "xPU": "A GPU-class processor: matrix units behind external memory.",
    "Logic-PIM": "Compute on the logic die of memory stacks, behind more bandwidth than leaves them.",
    "in-bank PIM": "Compute beside the banks of a DRAM.",
    "co-processing": "Experts or attention of one layer on two processors at once.",
    "placement": "The rule that sends ops to processors.",
    "evidence": "What a figure rests on: fits with their errors and rows, constants with their sources, assumptions.",
    "fitted, transferred, derived, assumed": "Fitted to the device's own measurements; from other devices' fits; from a simulated DRAM; a constant with a reason.",
    "steady window": "The part of a run in which load and batch no longer drift, whose rates are told.",
    "regret": "Time of a chosen configuration over that of the best.",
    "MAPE, median APE": "Mean and median of |predicted / measured - 1|.",
}
"""Term -> meaning."""

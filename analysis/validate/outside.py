"""TTFT of a benchmark outside of its server's steps.

*Tokenizer queue.* One thread tokenizes one text after another and blocks all output: vLLM's
``AsyncMicrobatchTokenizer`` (vllm/utils/async_utils.py; transformers' tokenizers keep the interpreter's lock,
github.com/vllm-project/vllm/issues/19012), SGLang's ``_tokenize_one_request`` (tokenizer_manager.py),
``generate_async`` of tensorrt_llm/llmapi/llm.py. Clients of a closed loop start at once, and their first prompts queue
there. Front ends of split deployments have many threads. *First use of kernels.* DeepGEMM is compiled for every new
shape (github.com/deepseek-ai/DeepGEMM, called by SGLang and TensorRT-LLM); TensorRT-LLM loads and tunes the kernels of
its experts. The two warm-up requests per client of later runs all have one prompt's length. The split of these seconds
is not known; TPOT contains none of them. A server that has run for a while has none, and `simulate` adds none.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ...simulator.deploy.deployment import Deployment

F8 = npt.NDArray[np.float64]
TOKEN_S = 2.3e-6
"""Seconds per random prompt token. Measured: transformers' call, with the 128,000 byte pairs of mistral-common's
tekken, takes 2.2 ms for 920 and 19 for 7,400 on a core of an AMD EPYC (``encode`` 1.4 and 14.5), and 10.2 ms for "hi
" 10,000 times, as a DGX H100's does (10.7, the issue above). English takes 0.8 us a token."""
FIRST_USE_S: Mapping[str, float] = {"SGLang": 0.9, "TensorRT-LLM": 1.2}
"""Seconds by framework, the one fitted constant of each: the value with the least median error of TTFT
over the rows of $OPBYTE_DATA/serving_points with experts whose deployment is not split (`opbyte validate constants`). vLLM
has no such row."""


def first_use_s(framework: str, deployment: Deployment) -> float | None:
    """Seconds that the first request of every client waits; None for models without experts."""
    return FIRST_USE_S.get(framework, 0.0) if deployment.has_experts else None


def seen_s(arrival_s: F8, first_s: F8, tokens: npt.NDArray[np.int64]) -> F8:
    """When clients see first tokens that an engine had at `first_s` of prompts that it knew at once [s].

    Examples
    --------
    >>> seen_s(np.zeros(2), np.array([0.01, 1.0]), np.array([10_000, 10_000])).round(3).tolist()
    [0.046, 1.023]
    """
    order = np.argsort(arrival_s, kind="stable")
    came, took = arrival_s[order], TOKEN_S * tokens[order]
    work = np.cumsum(took)
    ends = np.maximum.accumulate(came - (work - took)) + work
    idle = np.append(came[1:] >= ends[:-1], True)  # behind this prompt
    begins, until = (ends - took)[np.append(True, idle[:-1])], ends[idle]
    ready, seen = np.maximum(first_s[order] + took, ends), np.empty(len(order))
    seen[order] = np.maximum(ready, until[np.searchsorted(begins, ready, side="right") - 1])
    return seen

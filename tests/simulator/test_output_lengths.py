"""Does no policy know how long an answer will be before it ends?

Two runs differ in one answer's length alone: until the shorter one has ended they are the same run. Policies
that reserve a request's whole cache read what a client asks for at most, and SGLang's weighs it, as the
engines do; the others read nothing of the kind.
"""

from __future__ import annotations

import numpy as np
import pytest

from opbyte import simulate

ROWS = [(0.0, 400, 30), (0.05, 900, 60), (0.1, 300, 10), (0.2, 700, 80), (0.3, 200, 5), (0.4, 500, 40)]


def stamps(policy: str, longer: int, by: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last tokens of all requests, in a cache too small for all of them at once."""
    rows = [
        {"arrival_s": t, "input_tokens": n, "output_tokens": out + by * (i == longer)}
        for i, (t, n, out) in enumerate(ROWS)
    ]
    table = simulate("llama-3-8b", "h100-x1", trace=rows, policy=policy, token_budget=512).run.requests
    order = np.argsort(table.request_id)
    return table.first_token_s[order], table.last_token_s[order]


@pytest.mark.parametrize("longer", range(len(ROWS)))
@pytest.mark.parametrize("policy", ["chunked", "vllm"])
def test_runs_are_one_until_the_shorter_answer_ends(policy: str, longer: int) -> None:
    first, last = stamps(policy, longer, 0)
    other_first, other_last = stamps(policy, longer, 50)
    until = last[longer]
    for found, other in ((first, other_first), (last, other_last)):
        others = np.arange(len(ROWS)) != longer
        np.testing.assert_array_equal(found[others & (found < until)], other[others & (found < until)])
        assert (other[others & (found >= until)] >= until).all()

"""Do parallel kernels run on the threads they are given, also when their code comes from the cache?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RUN = """
import sys
import numba, numpy as np
from opbyte.kernels import jit
from cached_kernel import threads_seen

count = int(sys.argv[1])
jit.use_threads(2)
out = np.full(count, -1, np.int64)
threads_seen(out, count)
print(len(set(out.tolist())))
"""
KERNEL = """
import numba, numpy as np
from opbyte.kernels.jit import parallel

@parallel
def threads_seen(out, threads):
    for i in numba.prange(threads):
        # Long enough that a sleeping thread wakes up for its share.
        total = 0.0
        for n in range(20_000_000):
            total += np.sqrt(n + 1.0)
        out[i] = numba.get_thread_id() if total > 0 else -2
"""


def test_twins_do_not_share_a_cache_entry(tmp_path: Path) -> None:
    (tmp_path / "cached_kernel.py").write_text(KERNEL)
    env = {**os.environ, "OPBYTE_CACHE": str(tmp_path), "NUMBA_NUM_THREADS": "2"}
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env.get("PYTHONPATH", "")])

    def seen(threads: int) -> int:
        done = subprocess.run([sys.executable, "-c", RUN, str(threads)], env=env, check=True,
                              capture_output=True, text=True)  # fmt: skip
        return int(done.stdout)

    assert [seen(1), seen(2), seen(1), seen(2)] == [1, 2, 1, 2]

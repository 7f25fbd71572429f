"""The page of shared kernel parameters (docs/frameworks.md), from their entries."""

from __future__ import annotations

from collections.abc import Mapping

from ...devices.calibrated.family import families
from ...devices.calibrated.kernel_sets import LABELS, TYPICAL, Entry

INTRO = """\
# Whose kernels, and which device is faster

This page is written, beside the files that the catalog keeps in `devices/specs/kernels/`, by

    opbyte calibrate $OPBYTE_DATA/measured $OPBYTE_DATA/measured_2026 \\
        $OPBYTE_DATA/serving_runs/rtx4090--llama-3.1-8b/kernels --device all --shared --out DIR

which makes them again, to four digits (`sources` of an entry names the rows behind it). With the tables of some
families alone it fits these and keeps the others' entries: `$OPBYTE_DATA/measured*/mla.csv` takes half a minute.
Not so made: links, vector kernels, and the products of Hopper and H20. They are of an earlier fit, to `measured`
alone, since the new one, held to the order with the rows of Blackwell, is worse for the rows of Hopper and L40S
(all-reduces of TensorRT-LLM on H200 off by 28 instead of 17 %, collectives on H100 by 18 instead of 9), slows the H20's
16-bit products, which no row tells, so that its fp8 ones may be slower, and takes TTFT of `serving_h100` from 4 to 6 %.

A framework's kernels differ from another's by more than many devices do, and no device was timed
under all frameworks. Answers therefore never mix them unseen: every GPU of the catalog has parameters
under each of these names, and two devices are compared under one.

- `typical` (the default): the geometric mean of the three frameworks, each weighing as many rows as the
  tables have of it in a family (no row of vLLM's latent attention: two frameworks there).
- `vllm`, `sglang`, `trtllm`: that framework's kernels.
- `best`: parameters of its own, fitted to the fastest of the three at each shape; a fit, so no minimum.
- `measured-blend`: the mean of whichever kernels were timed on that very device, extrapolated as
  they are. These are the fits of `docs/calibration.md`; tables of one's own are used in place of all
  names. Do not compare devices by them: an H100 was timed with SGLang and TensorRT-LLM, an H200 with
  vLLM and TensorRT-LLM.

Devices of one silicon share their parameters (`kernels:` in their description): H100, H200 and H800;
the A100s; B200 and B300; GB200 and GB300; MI300X and MI325X. What a device's own rows say beyond that
(GB200, H20, MI308X, RTX 4090 and the links of PCIe cards) stands in a set of its own, drawn to
the parent's. A description that `extends` a device keeps its kernels, whatever it changes. Where a
framework has no rows on a silicon it has, in this order: those of the kernel library that it calls
there (*library*), those of the silicon's other kernels for a tenth of their weight (*silicon*), or
the parameters of the strongest set whose device has no higher peak (*transferred*); if another
silicon has rows of the same named library, those come before the silicon's other kernels.

All sets are fitted together under inequalities: on steps of 13 models in four formats (`ASKED` in
`analysis/validate/kernel_sets.py`), on one and eight devices, decodes of 1 to 1,024 and prompts of 16 to 16,384, **a device whose peaks (16, 8 and
4 bits, memory; for steps in 8-bit integers that rate, between devices the link) are all at least
another's is not slower, and fp8 is not slower than bf16 where there is a unit for it**. The sum of
squares of each excess, as a share of the step, is added to the fit with a weight that rises until the
rows give way. `violations` in `analysis/validate/dominance.py` counts what is left above 3 %.

What this costs and hides:

- The rows contradict the order here and there. Small kernels run faster on cards of 2.5 GHz (L40S, RTX
  PRO 6000) than on an H100; under the order they may, as far as the whole step does not.
- vLLM's untuned fp8 experts with one scale a tensor take up to 4 times as long as its bf16 ones on an
  H200. Such rows, slower in fewer bits for more than a tenth of the steps, are left out here; the
  fits of `measured-blend` hold them.
- No framework was timed on AMD's products: their rows are of AITER's kernels. MI355X has higher peaks
  than B200, so under any framework's name it is not slower, which is more than AITER's GEMMs reach
  (bias in the table). Take `measured-blend` for AITER as it was.

Cells: basis, rows, and median / 90th percentile of |predicted / measured - 1| with the median of
predicted / measured - 1 on those rows. The parameters are held to the order and shared by devices, so
errors are larger than those of each device's own fit; for `typical` they hold the frameworks'
differences, as its rows are of all three.
"""


def set_report(sets: Mapping[str, Mapping[str, Mapping[str, Entry]]]) -> str:
    """The page as Markdown."""
    parts = [INTRO]
    for name, family in families().items():
        held = {key: found[name] for key, found in sets.items() if name in found}
        if not held:
            continue
        columns = [TYPICAL, *LABELS] if any(len(e) > 1 for e in held.values()) else [TYPICAL]
        parts.append(f"## {family.title} (`{name}`)\n")
        parts.append("| set | " + " | ".join(columns) + " |")
        parts.append("|---" * (len(columns) + 1) + "|")
        parts += [
            f"| {key} | " + " | ".join(_cell(entries.get(c)) for c in columns) + " |"
            for key, entries in sorted(held.items())
        ]
        parts.append("")
    return "\n".join(parts)


def _cell(entry: Entry | None) -> str:
    if entry is None:
        return "-"
    if entry.errors is None:
        return entry.basis
    median, tail, bias = (100.0 * e for e in entry.errors)
    return f"{entry.basis}, {entry.rows}: {median:.1f} / {tail:.0f} / {bias:+.1f} %"

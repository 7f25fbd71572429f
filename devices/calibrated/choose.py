"""One serving framework's kernels for every kind of op."""

from __future__ import annotations

from .family import families
from .kernel_sets import named
from .layer_kernels import LAYER_FAMILIES


def everywhere(framework: str) -> dict[str, str]:
    """Kinds of ops -> the framework, as `device.build_device` and `deploy` take them.

    Parameters
    ----------
    framework : str
        One of `kernel_sets.FRAMEWORKS`, optionally with a version (``vllm@0.24``). Without rows on a device a framework
        uses, in this order: devices of the same silicon, other frameworks with the same kernel library, the device's
        other kernels, another silicon's parameters (`set_fit`).

    Raises
    ------
    InputError
        No such framework.
    """
    named(framework)
    return {kind: framework for family in (*families().values(), *LAYER_FAMILIES.values()) for kind in family.kinds}

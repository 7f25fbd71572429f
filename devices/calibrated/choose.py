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
        Of `kernel_sets.FRAMEWORKS`, perhaps with a version (``vllm@0.24``). Where a framework has no rows on a device it has those of
        devices of the same silicon, of others that call the same kernel library, of the device's
        other kernels, or another silicon's parameters, in this order (`set_fit`).

    Raises
    ------
    InputError
        No such framework.
    """
    named(framework)
    return {kind: framework for family in (*families().values(), *LAYER_FAMILIES.values()) for kind in family.kinds}

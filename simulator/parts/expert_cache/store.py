"""Where a deployment's experts lie: how many stay in a device's memory, and what others cost to fetch."""

from __future__ import annotations

from dataclasses import dataclass

from ....devices.lines import TierSpec
from ....devices.spec import DeviceSpec
from ....workloads.errors import CapacityError, InputError, nearest, typed_number
from .policies import CACHE_POLICIES, CachePolicy

HORIZONS = ("layer", "step")
"""Time of a prediction: at the start of the previous layer, or before the first layer of a step."""

LOOK_AHEAD = 8
"""Steps that belady looks ahead where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class ExpertStore:
    """The way to keep experts that is asked for.

    Attributes
    ----------
    resident : float
        Experts of a layer that a device keeps; below 1 or `fraction`, a share of those it would hold.
    policy : str
        A name of `CACHE_POLICIES`.
    look_ahead : int
        Steps that are known ahead, for policies that ask; the batch is taken to stay as it is.
    accuracy, false_rate : float
        Probability that the predictor names an expert that a step needs, and one that it does not;
        0 both without a predictor.
    horizon : str
        One of `HORIZONS`.
    """

    resident: float
    fraction: bool = False
    policy: str = "lru"
    look_ahead: int = 0
    accuracy: float = 0.0
    false_rate: float = 0.0
    horizon: str = "step"

    @property
    def rule(self) -> CachePolicy:
        """The policy itself."""
        return CACHE_POLICIES[self.policy]

    @property
    def predicts(self) -> bool:
        """Whether there is a predictor."""
        return self.accuracy > 0.0 or self.false_rate > 0.0

    def slots(self, held: int, where: str) -> int:
        """Return the slots of a layer on a device for that number of its experts.

        Raises
        ------
        InputError
            More than there are.
        """
        slots = max(1, int(self.resident * held)) if self.fraction else int(self.resident)
        if slots > held:
            reason = f"must be at most the {held} experts of a layer that a device of {where} holds"
            raise InputError("--experts-resident", f"{reason}, not {slots}")
        return slots


def expert_store(
    resident: str | None, policy: str | None = None, predictor: str | None = None, horizon: str | None = None
) -> ExpertStore | None:
    """Read the options of an expert cache; None without any.

    Parameters
    ----------
    resident : str
        ``N``, or a fraction with a decimal point.
    policy : str
        ``NAME``, or ``belady:STEPS``.
    predictor : str
        ``ACCURACY``, or ``ACCURACY:FALSE_RATE``.
    horizon : str
        One of `HORIZONS`.

    Raises
    ------
    InputError
        Which option, and what would be right.

    Examples
    --------
    >>> expert_store("4", "belady:2").look_ahead
    2
    """
    if resident is None:
        for flag, value in (("cache", policy), ("predictor", predictor), ("horizon", horizon)):
            if value is not None:
                raise InputError(f"--expert-{flag}", "needs --experts-resident too")
        return None
    amount, fraction = _resident(resident)
    name, steps = _policy(policy or "lru")
    accuracy, false_rate = (0.0, 0.0) if predictor is None else _predictor(predictor)
    if CACHE_POLICIES[name].predicts and predictor is None:
        raise InputError(f"--expert-cache {name}", "needs --expert-predictor ACCURACY")
    if horizon is not None and predictor is None:
        raise InputError("--expert-horizon", "needs --expert-predictor ACCURACY")
    if horizon is not None and horizon not in HORIZONS:
        reason = f"must be layer or step, not {horizon!r}{nearest(horizon, HORIZONS)}"
        raise InputError("--expert-horizon", reason)
    return ExpertStore(amount, fraction, name, steps, accuracy, false_rate, horizon or "step")


def _resident(text: str) -> tuple[float, bool]:
    reason = f"must be a count of 1 or more, or a fraction such as 0.25, not {text!r}"
    try:
        value = float(text) if "." in text else int(text)
    except ValueError:
        raise InputError("--experts-resident", reason) from None
    fraction = isinstance(value, float)
    if not (0.0 < value <= 1.0 if fraction else 1 <= value < 2**31):
        raise InputError("--experts-resident", reason)
    return float(value), fraction


def _policy(text: str) -> tuple[str, int]:
    """Name of a policy, and the steps that it looks ahead."""
    name, colon, argument = text.partition(":")
    if name not in CACHE_POLICIES:
        reason = f"unknown cache policy{nearest(name, CACHE_POLICIES)}"
        raise InputError(f"--expert-cache {text!r}", reason)
    looks = CACHE_POLICIES[name].looks_ahead
    if not colon:
        return name, LOOK_AHEAD if looks else 0
    if not looks:
        raise InputError(f"--expert-cache {text!r}", f"{name} has no parameter; remove the text after the name")
    if not argument.isdecimal() or not 1 <= int(argument) <= 1000:
        raise InputError(
            f"--expert-cache {text!r}", f"needs a number of steps from 1 to 1000 after the colon: {name}:STEPS"
        )
    return name, int(argument)


def _predictor(text: str) -> tuple[float, float]:
    first, _, second = text.partition(":")
    reason = f"must be ACCURACY[:FALSE_RATE], two shares up to 1, the first above 0, not {text!r}"
    accuracy, false_rate = typed_number(first), typed_number(second or 0.0)
    if not (0.0 < accuracy <= 1.0 and 0.0 <= false_rate <= 1.0):
        raise InputError("--expert-predictor", reason)
    return accuracy, false_rate


@dataclass(frozen=True, slots=True)
class MemoryTiers:
    """Memories below that of a device, as one device sees them."""

    host: TierSpec
    disk: TierSpec | None = None

    def near(self, expert_bytes: float, experts: int) -> int:
        """Return the number of a device's experts in host memory; the others are on disk.

        Raises
        ------
        CapacityError
            Both together do not hold them.
        """
        near = min(experts, int(self.host.capacity_bytes / expert_bytes))
        room = 0.0 if self.disk is None else self.disk.capacity_bytes
        if (experts - near) * expert_bytes > room:
            places = "host_memory.capacity_GiB" if self.disk is None else "host and disk"
            raise CapacityError(
                places,
                f"the experts of a device need {experts * expert_bytes / 2**30:.1f} GiB, "
                f"{(self.host.capacity_bytes + room) / 2**30:.1f} GiB available",
            )
        return near

    def seconds(self, expert_bytes: float, far: bool) -> float:
        """Seconds of fetching an expert; one on the disk passes through host memory whole."""
        host = self.host.latency_s + expert_bytes / self.host.bandwidth_bytes_per_s
        if not far or self.disk is None:
            return host
        return host + self.disk.latency_s + expert_bytes / self.disk.bandwidth_bytes_per_s


def tiers_of(device: DeviceSpec) -> MemoryTiers:
    """The memories below a device's own.

    Raises
    ------
    InputError
        Its description gives no host memory.
    """
    if device.host_memory is None:
        raise InputError(
            "--experts-resident",
            f"needs the key `host_memory` in the description of {device.name}: "
            "{capacity_GiB: ..., bandwidth_GBps: ..., latency_us: ..., source: ...}, what a device "
            "has of the host's memory and the rate of its link to it",
        )
    return MemoryTiers(device.host_memory, device.disk)

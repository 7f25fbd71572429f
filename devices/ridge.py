"""The ridge point, and the same idea counted in tokens: the break-even queue of an expert."""

from __future__ import annotations


def ridge_point(flops_per_s: float, bytes_per_s: float) -> float:
    """Op/B at which arithmetic and memory take equally long; infinite without a bandwidth.

    Examples
    --------
    >>> ridge_point(1e12, 1e10)
    100.0
    """
    return flops_per_s / bytes_per_s if bytes_per_s else float("inf")


def break_even_tokens(ridge: float, weight_bytes: float, token_bytes_per_weight: float = 0.0) -> float:
    """Tokens of one expert from which on its weights load in the shadow of its arithmetic.

    `n` tokens do ``2 n`` FLOP with every weight of `weight_bytes`, and move
    ``n * token_bytes_per_weight`` activation bytes besides it: the matmul's Op/B,
    ``2 n / (weight_bytes + n * token_bytes_per_weight)``, reaches the ridge point at the
    break-even. Where activations do not share the weights' path they cost nothing here.

    Parameters
    ----------
    ridge : float
        Ridge point of the processor [FLOP/B].
    weight_bytes : float
        Stored bytes of one weight [B].
    token_bytes_per_weight : float
        Activation bytes of one token over the expert's weights [B].

    Returns
    -------
    float
        Infinite if activations keep the expert below the ridge.

    Examples
    --------
    >>> break_even_tokens(48.0, 2.0), break_even_tokens(48.0, 1.0)
    (48.0, 24.0)
    """
    room = 2.0 - ridge * token_bytes_per_weight
    return ridge * weight_bytes / room if room > 0 else float("inf")

"""Speculation as it is asked for: ``METHOD[:MODEL]:K``, and how often drafts are accepted.

What every speculator says: which model it drafts with, if any.

Who drafts: a smaller model, an EAGLE head, the model's own heads, or the sequence itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .catalog import load_model
from .errors import InputError, typed_number
from .layers import Attention, FeedForward, Fusion
from .model import Layer, ModelSpec
from .numerics import Numerics
from .registry import Registry


@dataclass(frozen=True, slots=True)
class Drafter:
    """The model or method that drafts tokens.

    Attributes
    ----------
    model : ModelSpec or None
        Runs once for every draft of a step; None if drafting is not on the devices.
    copies : int
        Stored models of that shape, which take turns.
    on_host : bool
        Whether the host drafts, from the tokens of the step before: then nothing is scheduled ahead.
    """

    model: ModelSpec | None
    copies: int = 1
    on_host: bool = False


Speculator = Callable[[ModelSpec, str], Drafter]
"""Function that makes a `Drafter` from the target model and the text between the method's name and the number of
drafts."""

SPECULATORS: Registry[Speculator] = Registry("speculator", described=True)


def speculator(name: str) -> Callable[[Speculator], Speculator]:
    """Register a function that makes a method's `Drafter`.

    The function raises `InputError` if the method cannot draft for the model.
    """
    return SPECULATORS.register(name)


OPTION, RATES = "--speculative", "--acceptance"
MOST_DRAFTS = 64
"""Maximum number of drafts per step; published settings are below 16."""


@dataclass(frozen=True, slots=True)
class DraftChoice:
    """A choice of drafting method and number of drafts.

    Attributes
    ----------
    method : str
        A name in `SPECULATORS`.
    argument : str
        What the method needs to know; mostly nothing.
    tokens : int
        Drafts a step, K; 0: none, plain decoding.
    """

    method: str
    argument: str
    tokens: int

    def __str__(self) -> str:
        return ":".join(filter(None, (self.method, self.argument, str(self.tokens))))


def read_asked(text: str) -> DraftChoice:
    """Parse ``mtp:K``, ``eagle:K``, ``ngram:K`` or ``draft:MODEL:K``.

    Raises
    ------
    InputError
        Unknown method, or no number of drafts in [0, `MOST_DRAFTS`].

    Examples
    --------
    >>> read_asked("draft:llama-3-8b:3")
    DraftChoice(method='draft', argument='llama-3-8b', tokens=3)
    """
    method, colon, rest = text.partition(":")
    try:
        SPECULATORS[method]
    except InputError as error:
        raise InputError(f"{OPTION} {text!r}", error.reason) from None
    argument, _, number = rest.rpartition(":")
    if not colon or not (number.isascii() and number.isdigit()) or int(number) > MOST_DRAFTS:
        raise InputError(
            f"{OPTION} {text!r}",
            f"needs a number of drafts from 0 to {MOST_DRAFTS} at its end, such as "
            f"{'draft:MODEL:4' if method == 'draft' else f'{method}:2'}",
        )
    return DraftChoice(method, argument, int(number))


def read_rates(text: str) -> tuple[float, ...]:
    """Parse acceptance probabilities by draft position, such as ``0.8,0.6``.

    Raises
    ------
    InputError
        An acceptance probability is not a number from 0 to 1.
    """
    rates = []
    for cell in text.split(","):
        rate = typed_number(cell)
        if not 0.0 <= rate <= 1.0:
            raise InputError(
                f"{RATES} {text!r}", f"must be a comma-separated list of numbers from 0 to 1, not {cell.strip()!r}"
            )
        rates.append(rate)
    return tuple(rates)


def check_rates(asked: DraftChoice, rates: Sequence[float]) -> None:
    """Refuse acceptance probabilities whose number differs from the number of drafts.

    Raises
    ------
    InputError
        Names both numbers.
    """
    if len(rates) != asked.tokens:
        raise InputError(
            RATES,
            f"has {len(rates)} value{'s' * (len(rates) != 1)} for the {asked.tokens} "
            f"draft{'s' * (asked.tokens != 1)} of {asked}: one for each position, its acceptance rate "
            "if all drafts before it are accepted",
        )


def expected_tokens(rates: Sequence[float]) -> float:
    """Return the mean number of tokens per verification: one, plus the products of the acceptance probabilities.

    Examples
    --------
    >>> expected_tokens([0.5, 0.5])
    1.75
    """
    total = reached = 1.0
    for rate in rates:
        reached *= rate
        total += reached
    return total


def _alone(name: str, argument: str) -> None:
    if argument:
        raise InputError("--speculative", f"{name} takes only a number, {name}:K, not {argument!r} too")


@speculator("draft")
def draft(model: ModelSpec, argument: str) -> Drafter:
    """A separate model, by catalog name or config.json, with the same vocabulary.

    Its weights keep their formats; its KV cache has the target model's format.
    """
    if not argument:
        raise InputError("--speculative", "draft needs a model: draft:MODEL:K")
    small = load_model(argument)
    if small.vocab != model.vocab:
        raise InputError(
            f"--speculative draft:{argument}",
            f"has a vocabulary of {small.vocab:,} words, {model.name} of {model.vocab:,}; a draft model needs the same",
        )
    return Drafter(replace(small, numerics=replace(small.numerics, kv=model.numerics.kv)))


@speculator("eagle")
def eagle(model: ModelSpec, argument: str) -> Drafter:
    """EAGLE's head: one decoder layer like the model's, behind a projection of 2 h to h.

    It reads the hidden state of a token and the embedding of the next one; embedding and head are the model's (Li et
    al., EAGLE, ICML 2024, section 4.1). Heads are published in 16 bit for any format of the model. Drafts are a chain,
    not a tree.
    """
    _alone("eagle", argument)
    last = model.layers[-1]
    if not (isinstance(last.mixer, Attention) and isinstance(last.ffn, FeedForward)):
        raise InputError(
            "--speculative eagle",
            f"{model.name} is not a dense decoder, and an EAGLE head's shape for such a model is not in "
            "its config.json; use mtp, draft or ngram",
        )
    layer = replace(last, mixer=replace(last.mixer, window=0))
    joined = Layer(Fusion(model.hidden, norms=0), None, 0, 0, replicated=True)
    head = ModelSpec(
        name=f"{model.name} EAGLE head", architecture=model.architecture, hidden=model.hidden,
        vocab=model.vocab, layers=(joined, layer),
        tied=model.tied, numerics=Numerics(model.numerics.default, kv=model.numerics.kv),
        max_position=model.max_position, source="Li et al., EAGLE, ICML 2024, section 4.1",
        borrows=True,
    )  # fmt: skip
    return Drafter(head)


@speculator("mtp")
def mtp(model: ModelSpec, argument: str) -> Drafter:
    """Heads of the checkpoint, one decoder layer each; embedding and head are the model's.

    A head reads the hidden state of a token and the embedding of the next one. With more drafts than
    heads they run again, each on what the one before it has drafted (vLLM's rule).
    """
    _alone("mtp", argument)
    if not model.mtp_heads:
        raise InputError(
            "--speculative mtp",
            f"{model.name} has no multi-token-prediction heads (no num_nextn_predict_layers in its "
            "config.json); eagle, draft and ngram need none",
        )
    head = replace(
        model, name=f"{model.name} MTP head", layers=model.mtp, extra_weights=model.hidden,
        mtp=(), mtp_heads=0, borrows=True,
    )  # fmt: skip
    return Drafter(head, copies=model.mtp_heads)


@speculator("ngram")
def ngram(model: ModelSpec, argument: str) -> Drafter:
    """Tokens that followed the same n-gram earlier in the sequence; the host finds them, devices only verify.

    Every sequence is assumed to find K tokens in every step; a sequence without a match counts as one whose first draft
    is rejected.
    """
    _alone("ngram", argument)
    return Drafter(None, on_host=True)

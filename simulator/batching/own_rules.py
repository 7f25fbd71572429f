"""Options and initial state of an engine with its own scheduler."""

from __future__ import annotations

from typing import Any, Protocol

from ..step.launches import Calls


class OwnRules(Protocol):
    """Options of a scheduler that `exact` runs, as frozen data."""

    @property
    def part(self) -> str:
        """The part whose rules they are."""
        ...

    @property
    def calls(self) -> Calls:
        """How layers of its engine are called from Python."""
        ...

    @property
    def serial(self) -> bool:
        """Whether a stage's host waits for its work on a batch before it goes on."""
        ...

    def ordered(self, order: str) -> OwnRules:
        """The same with waiting requests in an order of `orders.ORDERS`, where it keeps one by itself."""
        ...

    def limited(self, tokens: int) -> OwnRules:
        """Return the same with at most `tokens` tokens in a step."""
        ...

    def verifying(self) -> OwnRules:
        """Return the rules of a server whose decodes verify drafts."""
        ...

    @property
    def caches(self) -> bool:
        """Whether computed prompts can be found again."""
        ...

    def decoding(self) -> OwnRules:
        """The same of an engine that requests come to with their caches."""
        ...

    def most(self, sequences: int, stages: int) -> int:
        """Return the requests that run at once, for a policy with that number of sequences."""
        ...

    @property
    def overlap(self) -> bool:
        """Whether results are processed while the next step runs."""
        ...

    def start(self, ranks: int, sequences: int, pages: int, page: int, stages: int) -> Any:
        """Return the state before the first request, with `pages` pages of `page` tokens per rank."""
        ...

    def widen(self, x: Any, blocks: int) -> Any:
        """Return the same state with room for requests with `blocks` pages."""
        ...

    def spare(self, page: int) -> int:
        """Return the tokens that must fit in addition to a request before its admission."""
        ...

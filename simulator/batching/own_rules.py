"""What an engine with a scheduler of its own brings: its options, and the state that it starts with."""

from __future__ import annotations

from typing import Any, Protocol


class OwnRules(Protocol):
    """Options of a scheduler that `exact` runs, as frozen data."""

    @property
    def part(self) -> str:
        """The part whose rules they are."""
        ...

    def limited(self, tokens: int) -> OwnRules:
        """The same with at most so many tokens in a step."""
        ...

    def verifying(self) -> OwnRules:
        """Those of a server whose decodes verify drafts."""
        ...

    @property
    def caches(self) -> bool:
        """Whether computed prompts can be found again."""
        ...

    def decoding(self) -> OwnRules:
        """The same of an engine that requests come to with their caches."""
        ...

    def most(self, sequences: int, stages: int) -> int:
        """Requests that run at once where a policy has so many sequences."""
        ...

    @property
    def overlap(self) -> bool:
        """Whether results are processed while the next step runs."""
        ...

    def start(self, ranks: int, sequences: int, pages: int, page: int, stages: int) -> Any:
        """The state before the first request, of so many pages of `page` tokens a rank."""
        ...

    def widen(self, x: Any, blocks: int) -> Any:
        """The same state with room for requests of so many pages."""
        ...

    def spare(self, page: int) -> int:
        """Tokens that must fit beside a request for it to be let in at all."""
        ...

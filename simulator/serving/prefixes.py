"""What a router remembers of the prompts it has sent: whose start a replica may still have.

A router in front of several engines does not see their caches. It keeps a list of its own of what went
where, as long as it would fit the replica's cache, and takes what is on it for cached (as the routers of
NVIDIA Dynamo and SGLang do without events from the engines).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from .table import Table


@dataclass(frozen=True, slots=True)
class Prompt:
    """Content of a request as a router can name it."""

    tokens: int  # of the prompt, and with the output
    length: int
    # content of the prompt's pieces, each named with all before it; of a session its name alone
    pieces: Sequence[Hashable] = ()
    # tokens of each; 0 where the only piece is a session, which is as long as it was sent
    piece: int = 0


def prompt_of(table: Table, row: int) -> Prompt:
    """A request's content: a trace's hashes, else its session, else nothing that repeats."""
    tokens = int(table.input_tokens[row])
    length = tokens + int(table.output_tokens[row])
    if table.hash_ids:
        return Prompt(tokens, length, table.hash_ids[row], table.hash_tokens)
    if len(table.session):
        return Prompt(tokens, length, (int(table.session[row]),))
    return Prompt(tokens, length)


@dataclass(slots=True)
class Sent:
    """What was sent to one replica, least recent first, as much as its cache can hold."""

    capacity: int  # tokens that the replica's cache holds; 0 where it finds nothing again
    kept: int = 0  # tokens on the list
    _pieces: OrderedDict[Hashable, int] = field(default_factory=OrderedDict)

    def found(self, prompt: Prompt) -> int:
        """Tokens of a prompt's start that are on the list; the last one is always computed."""
        known = 0
        for piece in prompt.pieces:
            tokens = self._pieces.get(piece)
            if tokens is None:
                break
            known += tokens
        return max(min(known, prompt.tokens - 1), 0)

    def note(self, prompt: Prompt) -> None:
        """Put a prompt on the list; of a session what its next turn starts with, the output too."""
        for piece in prompt.pieces if self.capacity else ():
            self.kept -= self._pieces.pop(piece, 0)
            self._pieces[piece] = prompt.piece or prompt.length
            self.kept += self._pieces[piece]
        while self.kept > self.capacity:
            self.kept -= self._pieces.popitem(last=False)[1]

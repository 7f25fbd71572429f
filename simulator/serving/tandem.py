"""Two pools as two queues in tandem: what the driver does with them, without an event a request.

Where nothing comes back from the decode pool (neither a completion that lets a request arrive nor
memory or places that a cache has to wait for), prompts run first, their caches cross the link in the
order of their first tokens, and the rest runs last, each in one go. Whether anything would have had to
wait is known only then, from the stamps; if so, nothing of it counts and the events are played.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ...workloads.requests import RequestBlock
from ..batching.kv import sequence_bytes
from ..batching.policies import Policy
from ..batching.state import F8, I8, I_DONE
from .arrivals import Arrivals
from .dealing import Dealer
from .nodes import Node, Nodes
from .pools import KvLink, cross
from .progress import advance_reporting
from .table import Table
from .transfers import Moves


@dataclass(slots=True)
class Tandem:
    """One attempt; its engines are of no use afterwards if it fails."""

    nodes: Nodes
    table: Table
    dealer: Dealer
    arrivals: Arrivals  # reads blocks
    policy: Policy  # of the decode nodes
    link: KvLink

    def run(self, blocks: Iterable[RequestBlock]) -> Moves | None:
        """Serve all requests; None if one would have had to wait for memory or a place."""
        nodes, table = self.nodes, self.table
        for block in blocks:
            self.dealer.deal_block(_prompts(block), self.arrivals.read(block))
        source = np.full(table.count, -1)
        order = np.zeros(table.count, dtype=np.int64)
        for node in nodes.entry:
            rows = self._finish(node)
            source[rows], order[rows] = node.index, np.arange(len(rows))
        count = slice(0, table.count)
        going = np.flatnonzero(table.output_tokens[count] > 1)
        going = going[np.lexsort((order[going], source[going], table.first_s[going]))]
        moves = self._cross(going, source[going])
        if self._full_entry(source, moves):
            return None
        targets = np.arange(len(going)) % len(nodes.decode)
        for k, node in enumerate(nodes.decode):
            rows = going[targets == k]
            self._take_up(node, rows[np.argsort(moves.end_s[rows], kind="stable")], moves)
            self._finish(node)
        full = any(self._full_decode(n, going, targets == k) for k, n in enumerate(nodes.decode))
        return None if full else moves

    def _finish(self, node: Node) -> I8:
        """Run all that a node has; its requests in order of their completion."""
        engine, report = node.engine, self.nodes.report
        if report is None:
            engine.advance(np.inf)
        else:
            advance_reporting(engine, np.inf, 0, report)
        mine = np.frombuffer(node.rows, dtype=np.int64)
        places = engine.state.ints[: engine.completed, I_DONE].copy()
        self.table.take_over_all(engine, places, mine[places], arrivals=False)
        return mine[places]

    def _cross(self, going: I8, source: I8) -> Moves:
        """Send caches in order, dealt to the decode nodes in turn."""
        nodes, table, link = self.nodes.all, self.table, self.link
        decode = self.nodes.decode
        tokens = table.input_tokens[going]
        bytes_of = [node.received(tokens[k :: len(decode)]) for k, node in enumerate(decode)]
        moved = np.zeros(len(going))
        for k, each in enumerate(bytes_of):
            moved[k :: len(decode)] = each
        lanes = np.array([[min(n.lanes, m.lanes) for m in decode] for n in nodes])
        target = np.arange(len(going)) % len(decode)
        wire_s = moved / (link.bandwidth_bytes_per_s * lanes[source, target])
        now = table.first_s[going]
        begun = table.scheduled_s[going] if link.by_layer else now
        layers = len(nodes[0].engine.deployment.model.layers)
        stamps = np.full((2, table.count), np.nan)
        ports, into = [node.ports for node in nodes], [node.ports for node in decode]
        columns = (source.tolist(), target.tolist(), now.tolist(), begun.tolist(), wire_s.tolist())
        crossed = [
            cross(link, ports[s], into[t], at, since, took, layers)
            for s, t, at, since, took in zip(*columns, strict=True)
        ]
        stamps[:, going] = np.array(crossed).reshape(-1, 2).T
        return Moves(stamps[0], stamps[1], float(moved.sum()), len(going))

    def _take_up(self, node: Node, rows: I8, moves: Moves) -> None:
        """Give a decode node the requests whose caches come to it, in order of their coming."""
        table = self.table
        block = RequestBlock(
            table.id[rows], moves.end_s[rows], table.input_tokens[rows], table.output_tokens[rows],
            acceptance=table.acceptance[rows] if len(table.acceptance) else None,
            labels=None if table.labels is None else table.labels.take(rows),
        )  # fmt: skip
        node.engine.take_up(block, table.input_tokens[rows], table.first_s[rows])
        node.rows.frombytes(np.ascontiguousarray(rows).tobytes())

    def _full_entry(self, source: I8, moves: Moves) -> bool:
        """Whether a prompt would have had to wait for caches that nobody has fetched yet."""
        table = self.table
        for node in self.nodes.entry:
            rows = np.flatnonzero(source == node.index)
            left = np.where(np.isnan(moves.end_s[rows]), table.last_s[rows], moves.end_s[rows])
            size, come = sequence_bytes(node.engine.kv, table.input_tokens[rows]), table.arrival_s
            if (_held(come[rows], left, size, come[rows]) > node.capacity).any():
                return True
        return False

    def _full_decode(self, node: Node, going: I8, mine: npt.NDArray[np.bool_]) -> bool:
        """Whether a cache, one sent elsewhere too, would have found no memory or place here."""
        table, policy = self.table, self.policy
        tokens = table.input_tokens[going] + 1
        if policy.reserve:
            tokens = tokens + table.output_tokens[going] - 2
        places = policy.max_sequences * node.engine.deployment.ranks
        sent, ended = table.first_s[going], table.last_s[going]
        size, one = sequence_bytes(node.engine.kv, tokens), np.ones(len(going))
        for each, most in ((size, node.capacity), (one, float(places))):
            kept = _held(sent[mine], ended[mine], each[mine], sent)
            if (kept + np.where(mine, 0.0, each) > most).any():
                return True
        return False


def _prompts(block: RequestBlock) -> RequestBlock:
    """The same requests up to their first tokens."""
    return replace(block, output_tokens=np.ones_like(block.output_tokens))


def _held(come: F8, go: F8, size: F8, at: F8) -> F8:
    """What is kept at some times; what comes then is there, and what goes then has not gone."""

    def summed(times: F8, side: Literal["left", "right"]) -> F8:
        order = np.argsort(times, kind="stable")
        total = np.concatenate([[0.0], np.cumsum(size[order])])
        return total[np.searchsorted(times[order], at, side)]

    held: F8 = summed(come, "right") - summed(go, "left")
    return held

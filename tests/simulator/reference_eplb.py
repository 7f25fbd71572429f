"""EPLB as its authors describe it, slow and obvious: lists, dictionaries and one loop a rule.

From the README and eplb.py of github.com/deepseek-ai/EPLB, in words of our own: "rebalance_experts" packs
groups of experts on nodes if those divide them, makes copies within each node, and packs copies on devices; if not, it
takes all devices for one node and all experts for one group. Loads are exact fractions here.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def pack(loads: Sequence[Fraction], packs: int) -> list[list[int]]:
    """Heaviest first, each into the lightest pack that is not full; a pack of one thing has its own number."""
    size = len(loads) // packs
    if size == 1:
        return [[thing] for thing in range(packs)]
    held: list[list[int]] = [[] for _ in range(packs)]
    for thing in sorted(range(len(loads)), key=lambda thing: (-loads[thing], thing)):
        room = [pack for pack in held if len(pack) < size]
        lightest = min(sum((loads[other] for other in pack), Fraction(0)) for pack in room)
        next(pack for pack in room if sum((loads[o] for o in pack), Fraction(0)) == lightest).append(thing)
    return held


def copied(experts: Sequence[int], loads: Sequence[int], slots: int) -> list[tuple[int, Fraction]]:
    """Every copy's expert and load: first one of each, then one more of what is loaded most."""
    copies = dict.fromkeys(experts, 1)
    line = list(experts)
    while len(line) < slots:
        worst = max(Fraction(loads[e], copies[e]) for e in experts)
        more = next(e for e in experts if Fraction(loads[e], copies[e]) == worst)
        copies[more] += 1
        line.append(more)
    return [(e, Fraction(loads[e], copies[e])) for e in line]


def rebalance(loads: Sequence[int], replicas: int, groups: int, nodes: int, devices: int) -> list[list[int]]:
    """Experts of every device, in order of their slots."""
    if groups % nodes:
        groups = nodes = 1
    size = len(loads) // groups
    sums = [Fraction(sum(loads[g * size : (g + 1) * size])) for g in range(groups)]
    found = []
    for held in pack(sums, nodes):
        experts = [e for g in held for e in range(g * size, (g + 1) * size)]
        line = copied(experts, loads, replicas // nodes)
        for slots in pack([load for _, load in line], devices // nodes):
            found.append([line[slot][0] for slot in slots])
    return found

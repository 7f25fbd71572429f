"""One tile of keys and values in registers: scores, a step of the online softmax, weighted values."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir
from numba import types

from .vector import F32, I32, I64, LANES, VEC, Emitter, Value, micro_kernel, store_sums

GROUP = 4
"""Rows of the left operand that a dot tile processes at once: four query heads, or four tokens."""

SOON = 8
"""Distance ahead of the current key at which `score_tile` prefetches a row for the last time [keys]."""

STRIP = 16
"""Rows of values that the passes of `add_values` process in turn; all passes but the first find them in L1."""


@micro_kernel(*(types.int64,) * 8)
def score_tile(emitter, q, k, rows, count, ahead, next_rows, later_rows, out, dim, tile):
    """Compute the scores of `GROUP` query vectors with the keys of a tile, four keys at a time.

    ``out[i, t] = sum_d q[i, d] * k[row t, d]``, rows of `out` `tile` floats apart. `rows` is the address of int64 byte
    offsets of the tile's rows from `k` (`tile` of them, the last one repeated). The rows at `next_rows` and
    `later_rows` from `ahead` are prefetched at the same time, and those `SOON` rows later: each row three times in
    sequence, because a core drops prefetches when its miss registers are full (decode attention at 0.70 of the read
    rate with two, 0.79 with three). `dim` and `tile` are literal; `count` is the number of rows.
    """
    builder = emitter.b

    def four(t: Value) -> None:
        def four_rows(base: Value, offsets: Value) -> list[Value]:
            first = builder.add(offsets, builder.mul(t, I64(8)))
            places = [emitter.scalar(emitter.offset(first, 8 * j), I64) for j in range(4)]
            return [builder.add(base, place) for place in places]

        keys = four_rows(k, rows)
        following_rows = [four_rows(ahead, at) for at in (later_rows, next_rows)]
        soon = builder.add(t, I64(SOON))
        last = I64(tile - 4)
        soon = builder.select(builder.icmp_signed("<", soon, last), soon, last)
        following_rows.append(four_rows(k, builder.add(rows, builder.mul(builder.sub(soon, t), I64(8)))))
        acc: list[Value] = [emitter.constant(0.0)] * 16
        # Row after row, each from end to end, though every row loads the queries again: four
        # rows side by side break the streams that the hardware fetches on its own (8.7 GB/s,
        # 16 in this order, where reading alone had 28).
        for j, (key, *following) in enumerate(zip(keys, *following_rows, strict=True)):
            for d in range(dim // LANES):
                if 4 * LANES * d % 64 == 0:
                    for fetched in following:
                        emitter.prefetch(emitter.offset(fetched, 4 * LANES * d))
                value = emitter.load(emitter.offset(key, 4 * LANES * d))
                for i in range(GROUP):
                    left = emitter.load(emitter.offset(q, 4 * (i * dim + LANES * d)))
                    acc[4 * i + j] = emitter.fma(left, value, acc[4 * i + j])
        to = emitter.offset(out, builder.mul(t, I64(4)))
        store_sums(emitter, acc, to, I64(4 * tile), GROUP, 4)

    emitter.loop(I64(0), count, 4, four)


@micro_kernel(*(types.int64,) * 3, types.float32, types.int64)
def softmax_tile(emitter, s, low, high, scale, state, tile):
    """Compute one step of the online softmax for `GROUP` rows of scores, in place.

    Scores outside ``[low[i], high[i])`` count as minus infinity. `state` holds, for each row, the running maximum, the
    running sum and the factor that earlier outputs shrink by (written here): 3 x `GROUP` floats. `s` then holds the
    weights ``exp(scale * s - maximum)``. `low` and `high` are addresses of int32.
    """
    builder = emitter.b
    words = ir.VectorType(I32, LANES)
    factor = emitter.splat(scale)
    minus = emitter.constant(-3.0e38)
    for i in range(GROUP):
        bounds = []
        for at in (low, high):
            one = emitter.scalar(emitter.offset(at, 4 * i), I32)
            first = builder.insert_element(ir.Constant(words, ir.Undefined), one, I32(0))
            bounds.append(emitter.shuffle(first, first, [0] * LANES))
        row, seen = [], []
        for c in range(tile // LANES):
            index = ir.Constant(words, [c * LANES + n for n in range(LANES)])
            inside = builder.and_(builder.icmp_signed(">=", index, bounds[0]),
                                  builder.icmp_signed("<", index, bounds[1]))  # fmt: skip
            score = emitter.load(emitter.offset(s, 4 * (i * tile + c * LANES)))
            row.append(builder.select(inside, emitter.fmul(score, factor), minus))
            seen.append(inside)
        best = row[0]
        for part in row[1:]:
            best = builder.select(builder.fcmp_ordered(">", part, best), part, best)
        highest = emitter.maximum(best)
        at = [emitter.offset(state, 4 * (n * GROUP + i)) for n in range(3)]
        before = emitter.scalar(at[0])
        now = builder.select(builder.fcmp_ordered(">", highest, before), highest, before)
        total = emitter.constant(0.0)
        top = emitter.splat(now)
        for c, part in enumerate(row):
            weight = emitter.exp(builder.fsub(part, top))
            weight = builder.select(seen[c], weight, emitter.constant(0.0))
            total = emitter.fadd(total, weight)
            emitter.store(weight, emitter.offset(s, 4 * (i * tile + c * LANES)))
        shrink = builder.extract_element(emitter.exp(emitter.splat(builder.fsub(before, now))), I32(0))
        old = emitter.scalar(at[1])
        emitter.store(emitter.fadd(emitter.fmul(old, shrink), emitter.sums([total])[0]), at[1])
        emitter.store(now, at[0])
        emitter.store(shrink, at[2])


@micro_kernel(*(types.int64,) * 9)
def add_values(emitter, p, v, rows, count, ahead, next_rows, later_rows, state, out, dim, tile):
    """Compute ``out[i, d] = out[i, d] * shrink[i] + sum_t p[i, t] * v[row t, d]``.

    In passes whose sums fit in the registers. The rows at `next_rows` and `later_rows` from `ahead` are prefetched at
    the same time.
    """
    passes = _passes(dim)
    given = (p, v, rows, count, ahead, next_rows, later_rows, state, out)

    def strip(first: Value) -> None:
        for number in range(len(passes)):
            _add_pass(emitter, given, first, dim, tile, passes, number)

    emitter.loop(I64(0), count, STRIP, strip)


def _passes(size: int) -> list[tuple[range, range]]:
    """Return the query vectors and vector registers of a value row that each pass processes: at most 16 sums.

    Whole rows where they are short, so that a pass reads them from end to end; else four registers
    for all queries, which loads each value once.
    """
    registers = size // LANES
    if registers <= 8:
        rows = min(GROUP, 16 // registers)
        return [(range(i, i + rows), range(registers)) for i in range(0, GROUP, rows)]
    return [(range(GROUP), range(first, min(first + 4, registers))) for first in range(0, registers, 4)]


def _add_pass(
    emitter: Emitter, args: Sequence[Value], first: Value, size: int, width: int,
    passes: Sequence[tuple[range, range]], number: int,
) -> None:  # fmt: skip
    """Run pass `number` of `add_values` over a strip of rows from `first` on, for its queries and columns.

    It fetches its share of the rows ahead.
    """
    b, (queries, columns) = emitter.b, passes[number]
    p_at, v_at, rows_at, count, ahead_at, next_at, later_at, state_at, out_at = args
    places = [4 * LANES * c for c in columns]
    slots = [(i, place, emitter.alloca(VEC)) for i in queries for place in places]
    fresh = b.icmp_signed("==", first, I64(0))
    for i, place, slot in slots:
        shrink = b.select(fresh, emitter.scalar(emitter.offset(state_at, 4 * (2 * GROUP + i))), F32(1.0))
        shrink = emitter.splat(shrink)
        before = emitter.load(emitter.offset(out_at, 4 * i * size + place))
        b.store(emitter.fmul(before, shrink), slot)

    share = 4 * size // len(passes)

    def one(t: Value) -> None:
        row = b.add(v_at, emitter.scalar(b.add(rows_at, b.mul(t, I64(8))), I64))
        # Rows are fetched one after another, each from end to end: a stream for the hardware too.
        turn = b.add(b.add(t, I64(number * STRIP)), b.mul(first, I64(len(passes) - 1)))
        which = b.udiv(turn, I64(len(passes)))
        part = b.add(ahead_at, b.mul(b.urem(turn, I64(len(passes))), I64(share)))
        following = [b.add(part, emitter.scalar(b.add(at, b.mul(which, I64(8))), I64)) for at in (later_at, next_at)]
        if number == 0:  # the next strip once more: its first pass is the one that waits for memory
            soon = b.add(t, I64(STRIP))
            soon = b.select(b.icmp_signed("<", soon, count), soon, t)
            row_ahead = b.add(v_at, emitter.scalar(b.add(rows_at, b.mul(soon, I64(8))), I64))
            for line in range(0, 4 * size, 64):
                emitter.prefetch(emitter.offset(row_ahead, line))
        for line in range(0, share, 64):
            for fetched in following:
                emitter.prefetch(emitter.offset(fetched, line))
        values = {place: emitter.load(emitter.offset(row, place)) for place in places}
        weights = {
            i: emitter.splat(emitter.scalar(emitter.offset(b.add(p_at, b.mul(t, I64(4))), 4 * i * width)))
            for i in queries
        }
        for i, place, slot in slots:
            b.store(emitter.fma(weights[i], values[place], b.load(slot)), slot)

    stop = b.add(first, I64(STRIP))
    stop = b.select(b.icmp_signed("<", stop, count), stop, count)
    emitter.loop(first, stop, 1, one)
    for i, place, slot in slots:
        emitter.store(b.load(slot), emitter.offset(out_at, 4 * i * size + place))

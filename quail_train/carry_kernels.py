# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""The hot loops of carrying an update without data: each weight's target, and the level near it that it gets.

Draws come from a generator that is a function of (key, place), so that the result is the same whatever the threads.
Not here: where levels and scales come from (held_grid.py), and what is made of the result (carry.py).
"""

import numpy as np
from numba import njit

from quail_audit.schemes.blocks import compiled

SCALE, ZERO, BASE, LOW, HIGH = range(5)  # of a block's numbers
COLUMNS = 5
KEPT = np.int16(-1)  # in the place of a level: the weight stays as it is
LANES = 16  # rows that error feedback works on side by side: one row's weights wait for each other
SEGMENT = 64  # of their columns at a time, which with the lanes fit the first-level cache

_GOLDEN, _FIRST, _SECOND = (np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@njit(error_model="numpy")
def mixed(key, place):
    """The place-th value (from 0) of SplitMix64 seeded with key (Steele et al., OOPSLA 2014): uint64."""
    z = np.uint64(key + (np.uint64(place) + np.uint64(1)) * _GOLDEN)
    z = np.uint64((z ^ (z >> np.uint64(30))) * _FIRST)
    z = np.uint64((z ^ (z >> np.uint64(27))) * _SECOND)
    return np.uint64(z ^ (z >> np.uint64(31)))


@compiled(nogil=True)
def carry_by_chance(
    rounded_original,
    original,
    unlearned,
    levels,
    unit,
    blocks,
    settled,
    block_size,
    key,
    first,
    last,
    values,
    chosen,
):
    """Carry rows: the upper of the two levels around the target with probability (target - lower) / (upper - lower).

    Args:
        rounded_original, original, unlearned: float32 [rows, columns]; the target is rounded_original + update.
        levels: float32 [k], ascending, no two equal.
        unit: float32, a constant that values are multiplied by.
        blocks: float32 [blocks, COLUMNS]: each block's scale, zero, base, and the ends that its weights reach; a level
            is worth (level - zero) * scale * unit + base, and no more than the ends.
        settled: bool [blocks], blocks whose weights stay as they are.
        block_size: weights to a block, in row-major order of the matrix.
        key: uint64, of the draws.
        first, last: which rows.
        values: float32 [rows, columns], written: the carried weights. Those that set a scale keep their own.
        chosen: int16 [rows, columns], written: the number of each weight's level, or KEPT.
    """
    columns, top = original.shape[1], levels.shape[0] - 1
    places = np.empty(levels.shape[0], np.float32)
    targets, draws, lower = np.empty(block_size, np.float32), np.empty(block_size), np.empty(block_size, np.int32)
    for row in range(first, last):
        start = 0
        while start < columns:
            place = row * columns + start
            block = place // block_size
            size = min(columns - start, block_size - place % block_size)
            scale, lowest, highest = blocks[block, SCALE], blocks[block, LOW], blocks[block, HIGH]
            if settled[block] or scale == np.float32(0.0):
                for i in range(size):
                    values[row, start + i] = unlearned[row, start + i]
                    chosen[row, start + i] = KEPT
                start += size
                continue
            _place(levels, unit, blocks[block], places)
            # loop by loop over a block: each becomes vector instructions
            for i in range(size):
                update = unlearned[row, start + i] - original[row, start + i]
                targets[i] = rounded_original[row, start + i] + update
                lower[i] = 0
            for j in range(1, top):
                for i in range(size):
                    lower[i] += np.int32(places[j] <= targets[i])
            number = np.uint64(row * columns + start)
            for i in range(size):
                draws[i] = np.float64(np.int64(mixed(key, number + np.uint64(i)) >> np.uint64(11))) * 2.0**-53
            for i in range(size):
                u = unlearned[row, start + i]
                below, above = places[lower[i]], places[lower[i] + 1]
                up = draws[i] * np.float64(above - below) < np.float64(targets[i] - below)
                free = lowest < u < highest
                values[row, start + i] = (above if up else below) if free else u
                level = np.int16(lower[i] + up)
                chosen[row, start + i] = (level if scale > np.float32(0.0) else np.int16(top - level)) if free else KEPT
            start += size


@compiled(nogil=True)
def carry_with_feedback(
    rounded_original,
    original,
    unlearned,
    levels,
    unit,
    blocks,
    settled,
    block_size,
    first,
    last,
    values,
    chosen,
):
    """Carry rows: the nearest level to the target plus what the row's earlier weights are short of theirs.

    Arguments as in carry_by_chance.
    """
    columns, k = original.shape[1], levels.shape[0]
    own, places = np.empty(k, np.float32), np.zeros((k, LANES), np.float32)
    bounds = np.zeros((k, LANES), np.float32)
    targets, fixed = np.zeros((SEGMENT, LANES), np.float32), np.zeros((SEGMENT, LANES), np.float32)
    free, level = np.zeros((SEGMENT, LANES), np.bool_), np.zeros((SEGMENT, LANES), np.int32)
    error, wanted = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    block_of, turned = np.empty(LANES, np.int64), np.zeros(LANES, np.bool_)
    for group in range(first, last, LANES):
        lanes = min(LANES, last - group)
        error[:] = np.float32(0.0)
        for start in range(0, columns, SEGMENT):
            size = min(SEGMENT, columns - start)
            for lane in range(lanes):
                row = group + lane
                for i in range(size):
                    u = unlearned[row, start + i]
                    targets[i, lane] = rounded_original[row, start + i] + (u - original[row, start + i])
                    fixed[i, lane] = u
            begin = 0
            while begin < size:  # as far as no lane's block ends
                end = size
                for lane in range(lanes):
                    place = (group + lane) * columns + start + begin
                    block_of[lane] = place // block_size
                    end = min(end, begin + block_size - place % block_size)
                for lane in range(lanes):
                    scale, lowest, highest = (
                        blocks[block_of[lane], SCALE],
                        blocks[block_of[lane], LOW],
                        blocks[block_of[lane], HIGH],
                    )
                    moves = not settled[block_of[lane]] and scale != np.float32(0.0)
                    turned[lane] = scale < np.float32(0.0)
                    _place(levels, unit, blocks[block_of[lane]], own)
                    for j in range(k):
                        places[j, lane] = own[j]
                        bounds[j, lane] = own[j] + (own[min(j + 1, k - 1)] - own[j]) * np.float32(0.5)
                    for i in range(begin, end):
                        free[i, lane] = moves and lowest < fixed[i, lane] < highest
                    if not moves:  # what was settled owes nothing
                        for i in range(begin, end):
                            targets[i, lane] = fixed[i, lane]
                for i in range(begin, end):
                    for lane in range(LANES):
                        wanted[lane] = targets[i, lane] + error[lane]
                        level[i, lane] = 0
                    for j in range(k - 1):
                        for lane in range(LANES):
                            level[i, lane] += np.int32(bounds[j, lane] < wanted[lane])
                    for lane in range(LANES):
                        value = places[level[i, lane], lane] if free[i, lane] else fixed[i, lane]
                        fixed[i, lane] = value
                        error[lane] = wanted[lane] - value
                        level[i, lane] = k - 1 - level[i, lane] if turned[lane] else level[i, lane]
                begin = end
            for lane in range(lanes):
                for i in range(size):
                    values[group + lane, start + i] = fixed[i, lane]
                    chosen[group + lane, start + i] = np.int16(level[i, lane]) if free[i, lane] else KEPT


@njit(error_model="numpy")
def _place(levels, unit, block, places):
    """A block's levels in units of its weights, ascending: from the last on where its scale is negative.

    None lies beyond the weights that set the scale, as one would where a scale is stored rounded.
    """
    top = levels.shape[0] - 1
    for j in range(top + 1):
        level = levels[j] if block[SCALE] > np.float32(0.0) else levels[top - j]
        place = (level - block[ZERO]) * block[SCALE] * unit + block[BASE]
        places[j] = min(max(place, block[LOW]), block[HIGH])

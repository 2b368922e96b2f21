# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Run the hot loops of carrying without data: find each weight's target and its level.

Each draw is a function of (key, place), so that the result does not depend on the threads. Levels and scales come from
grid.py.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from quail_audit.engine.schemes.absmax_blocks import LEVELS, compiled, pick

SCALE, ZERO, BASE, LOW, HIGH = range(5)  # a block's numbers
COLUMNS = 5
KEPT = np.int16(-1)  # instead of a level's number: the weight keeps its value
LANES = 32  # rows that error feedback works on side by side; within a row each weight waits for the one before
SEGMENT = 64  # columns at a time; LANES x SEGMENT fits the first-level cache
INVERSE = COLUMNS  # a lane's further number, after those of its block
NUMBERS = tuple(np.arange(LEVELS, dtype=np.float32))

Floats = tuple[np.float32, ...]

_GOLDEN, _FIRST, _SECOND = (np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@njit(error_model="numpy")
def splitmix64(key, place):
    """Return value number `place` (from 0) of SplitMix64 seeded with key (Steele et al., OOPSLA 2014): uint64."""
    z = np.uint64(key + (np.uint64(place) + np.uint64(1)) * _GOLDEN)
    z = np.uint64((z ^ (z >> np.uint64(30))) * _FIRST)
    z = np.uint64((z ^ (z >> np.uint64(27))) * _SECOND)
    return np.uint64(z ^ (z >> np.uint64(31)))


def is_even(levels: npt.NDArray[np.float32]) -> bool:
    """Return True if the levels are consecutive whole numbers: arithmetic then finds the nearest."""
    return bool((np.diff(levels) == 1.0).all())


class UnevenLevels(NamedTuple):
    """At most 16 levels at any distances. Tuples stay in registers; arrays do not, as they might be written to.

    Each value of a table is picked once the bound before it is passed. A table's padding is never picked.
    """

    levels: Floats  # [16]
    between: Floats  # [15], bounds of the nearest level
    from_second: Floats  # [16], the level after each level
    inner: Floats  # [15], all levels but the first and the last: bounds of the level below


def uneven_levels(levels: npt.NDArray[np.float32]) -> UnevenLevels:
    """Return levels float32 [k], ascending, as tables for the loops; zeros if they are even, where none is picked."""
    if is_even(levels):
        return UnevenLevels(*((np.float32(0.0),) * size for size in (LEVELS, LEVELS - 1) * 2))

    def pad(values: npt.NDArray[np.float32], size: int, padding: np.float32) -> Floats:
        return (*values, *(padding,) * (size - len(values)))

    last, beyond = levels[-1], np.float32(np.inf)
    return UnevenLevels(
        pad(levels, LEVELS, last),
        pad((levels[1:] + levels[:-1]) / np.float32(2), LEVELS - 1, beyond),
        pad(levels[1:], LEVELS, last),
        pad(levels[1:-1], LEVELS - 1, beyond),
    )


@compiled(nogil=True)
def carry_by_chance(
    rounded_original,
    original,
    unlearned,
    levels,
    even,
    uneven,
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
    """Carry rows: to the upper of the two levels around the target with probability (target - lower) / (upper - lower).

    Args:
        rounded_original, original, unlearned: float32 [rows, columns]; the target is rounded_original + update.
        levels: float32 [k], ascending, no two equal.
        even: bool, is_even of the levels.
        uneven: uneven_levels of the levels.
        unit: float32, constant factor of all values.
        blocks: float32 [blocks, COLUMNS]: each block's scale, zero, base, lowest and highest weight. A level stands for
            (level - zero) * scale * unit + base, clamped to these ends.
        settled: bool [blocks], blocks whose weights stay as they are.
        block_size: weights in a block, in row-major order of the matrix.
        key: uint64, key of the draws.
        first, last: range of rows.
        values: float32 [rows, columns], filled in: the carried weights. Weights that set a scale keep their value.
        chosen: int16 [rows, columns], filled in: the number of each weight's level, or KEPT.
    """
    columns, top = original.shape[1], np.float32(levels.shape[0] - 1)
    targets, draws = np.empty(block_size, np.float32), np.empty(block_size)
    for row in range(first, last):
        start = 0
        while start < columns:
            place = row * columns + start
            block = place // block_size
            size = min(columns - start, block_size - place % block_size)
            if settled[block] or blocks[block, SCALE] == np.float32(0.0):
                for i in range(size):
                    values[row, start + i] = unlearned[row, start + i]
                    chosen[row, start + i] = KEPT
                start += size
                continue
            # separate loops over a block: each becomes vector instructions
            for i in range(size):
                update = unlearned[row, start + i] - original[row, start + i]
                targets[i] = rounded_original[row, start + i] + update
            number = np.uint64(row * columns + start)
            for i in range(size):
                draws[i] = np.float64(np.int64(splitmix64(key, number + np.uint64(i)) >> np.uint64(11))) * 2.0**-53
            end = start + size
            arguments = targets[:size], draws[:size], unlearned[row, start:end], blocks[block], unit
            if even:
                _draw_even(*arguments, levels[0], top, values[row, start:end], chosen[row, start:end])
            else:
                _draw_of_16(*arguments, uneven, values[row, start:end], chosen[row, start:end])
            start = end


@compiled(nogil=True)
def carry_with_feedback(
    rounded_original,
    original,
    unlearned,
    levels,
    even,
    uneven,
    unit,
    blocks,
    settled,
    block_size,
    first,
    last,
    values,
    chosen,
):
    """Carry rows: to the level nearest to the target plus the error of the row's earlier weights.

    Arguments as in carry_by_chance.
    """
    columns, top = original.shape[1], np.float32(levels.shape[0] - 1)
    targets, own = np.zeros((SEGMENT, LANES), np.float32), np.zeros((SEGMENT, LANES), np.float32)
    result, level = np.zeros((SEGMENT, LANES), np.float32), np.zeros((SEGMENT, LANES), np.int16)
    error, of_lane = np.zeros(LANES, np.float32), np.zeros((COLUMNS + 1, LANES), np.float32)
    for group in range(first, last, LANES):
        lanes = min(LANES, last - group)
        error[:] = np.float32(0.0)
        for start in range(0, columns, SEGMENT):
            size = min(SEGMENT, columns - start)
            begin = 0
            while begin < size:  # up to where the first lane's block ends
                end = size
                for lane in range(lanes):
                    place = (group + lane) * columns + start + begin
                    end = min(end, begin + block_size - place % block_size)
                for lane in range(lanes):
                    row = group + lane
                    block = (row * columns + start + begin) // block_size
                    for j in range(COLUMNS):
                        of_lane[j, lane] = blocks[block, j]
                    if settled[block] or blocks[block, SCALE] == np.float32(0.0):  # a settled block carries no error on
                        of_lane[LOW, lane] = np.inf
                        of_lane[INVERSE, lane] = np.float32(0.0)
                        for i in range(begin, end):
                            own[i, lane] = unlearned[row, start + i]
                            targets[i, lane] = own[i, lane]
                        continue
                    of_lane[INVERSE, lane] = np.float32(1.0) / (blocks[block, SCALE] * unit)
                    for i in range(begin, end):
                        u = unlearned[row, start + i]
                        own[i, lane] = u
                        targets[i, lane] = rounded_original[row, start + i] + (u - original[row, start + i])
                if even:
                    for i in range(begin, end):
                        _nearest_even(targets[i], own[i], of_lane, unit, error, levels[0], top, result[i], level[i])
                else:
                    for i in range(begin, end):
                        _nearest_of_16(targets[i], own[i], of_lane, unit, error, uneven, result[i], level[i])
                begin = end
            for lane in range(lanes):
                for i in range(size):
                    values[group + lane, start + i] = result[i, lane]
                    chosen[group + lane, start + i] = level[i, lane]


# Loops over a block or over the lanes, without a branch: each becomes vector instructions.


@njit(error_model="numpy")
def _draw_even(targets, draws, own, block, unit, bottom, top, values, chosen):
    """Carry one block's weights [size]: targets, draws in [0, 1) and own weights -> values and levels' numbers."""
    step, base, lowest, highest = block[SCALE] * unit, block[BASE], block[LOW], block[HIGH]
    inverse, offset = np.float32(1.0) / step, block[ZERO] - bottom
    for i in range(own.shape[0]):
        x = (targets[i] - base) * inverse + offset
        lower = min(max(np.floor(x), np.float32(0.0)), top - np.float32(1.0))
        near = min(max((lower - offset) * block[SCALE] * unit + base, lowest), highest)
        far = min(max((lower + np.float32(1.0) - offset) * block[SCALE] * unit + base, lowest), highest)
        # if the scale is negative, the lower number has the greater value
        reaches = targets[i] - near if step > np.float32(0.0) else near - targets[i]
        on = draws[i] * np.float64(abs(far - near)) < np.float64(reaches)
        free = (lowest < own[i]) & (own[i] < highest)
        values[i] = (far if on else near) if free else own[i]
        chosen[i] = np.int16(lower + np.float32(on)) if free else KEPT


@njit(error_model="numpy")
def _draw_of_16(targets, draws, own, block, unit, uneven, values, chosen):
    """Do as _draw_even for at most 16 levels at any distances, with a scale that is not negative."""
    step, zero, base, lowest, highest = block[SCALE] * unit, block[ZERO], block[BASE], block[LOW], block[HIGH]
    inverse = np.float32(1.0) / step
    for i in range(own.shape[0]):
        x = (targets[i] - base) * inverse + zero
        near = (pick(x, uneven.inner, uneven.levels) - zero) * block[SCALE] * unit + base
        far = (pick(x, uneven.inner, uneven.from_second) - zero) * block[SCALE] * unit + base
        near, far = min(max(near, lowest), highest), min(max(far, lowest), highest)
        on = draws[i] * np.float64(far - near) < np.float64(targets[i] - near)
        free = (lowest < own[i]) & (own[i] < highest)
        values[i] = (far if on else near) if free else own[i]
        chosen[i] = np.int16(pick(x, uneven.inner, NUMBERS) + np.float32(on)) if free else KEPT


@njit(error_model="numpy")
def _nearest_even(targets, own, of_lane, unit, error, bottom, top, result, level):
    """Carry one column: targets, own -> result, float32 [LANES], and levels' numbers; pass the error on."""
    for lane in range(LANES):
        wanted = targets[lane] + error[lane]
        x = (wanted - of_lane[BASE, lane]) * of_lane[INVERSE, lane] + (of_lane[ZERO, lane] - bottom)
        number = min(max(np.floor(x + np.float32(0.5)), np.float32(0.0)), top)
        worth = (number + bottom - of_lane[ZERO, lane]) * of_lane[SCALE, lane] * unit + of_lane[BASE, lane]
        free = (of_lane[LOW, lane] < own[lane]) & (own[lane] < of_lane[HIGH, lane])
        value = min(max(worth, of_lane[LOW, lane]), of_lane[HIGH, lane]) if free else own[lane]
        error[lane] = wanted - value
        result[lane] = value
        level[lane] = np.int16(number) if free else KEPT


@njit(error_model="numpy")
def _nearest_of_16(targets, own, of_lane, unit, error, uneven, result, level):
    """Do as _nearest_even for at most 16 levels at any distances."""
    for lane in range(LANES):
        wanted = targets[lane] + error[lane]
        x = (wanted - of_lane[BASE, lane]) * of_lane[INVERSE, lane] + of_lane[ZERO, lane]
        picked = pick(x, uneven.between, uneven.levels)
        worth = (picked - of_lane[ZERO, lane]) * of_lane[SCALE, lane] * unit + of_lane[BASE, lane]
        free = (of_lane[LOW, lane] < own[lane]) & (own[lane] < of_lane[HIGH, lane])
        value = min(max(worth, of_lane[LOW, lane]), of_lane[HIGH, lane]) if free else own[lane]
        targets[lane] = x
        error[lane] = wanted - value
        result[lane] = value
    for lane in range(LANES):
        free = (of_lane[LOW, lane] < own[lane]) & (own[lane] < of_lane[HIGH, lane])
        level[lane] = np.int16(pick(targets[lane], uneven.between, NUMBERS)) if free else KEPT

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
"""Compile the hot loop over a pair of matrices on a CPU, for tables of 16 levels.

The loop is long on purpose: one pass makes every statistic. A block of weights is read once on both sides, scaled,
bucketed, dequantized and summed while it is in the first-level cache. Blocks that are bitwise equal cost a comparison;
blocks where few weights changed and the scale stayed are done weight by weight. The number of changed codes is read off
the counts of pairs of codes, which leave out weights equal in value and in code.
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from quail_audit.engine.schemes.absmax_blocks import ABSOLUTE_BITS, LEVELS, SMALLEST_ABSMAX, compiled, pick
from quail_audit.engine.schemes.level_table import LevelTable
from quail_audit.engine.weights.kernel_parts import (
    DOT,
    FEW_CHANGED,
    HUGE_BITS,
    IDENTICAL,
    INFINITY_BITS,
    NONFINITE_ORIGINAL,
    NONFINITE_UNLEARNED,
    ROUNDED_SQUARED,
    UPDATE_MAX,
    UPDATE_SQUARED,
    as_bits,
    bin_of,
    in_dtype,
    inner_products,
    power_of_two_scale,
    scan,
)

BLOCKS_PER_CHUNK = 4096  # sums are kept by chunk and added in order, so that they do not depend on the threads

_SLOT_BITS = 5  # twice as many slots as levels: a multiplier that gives each level its own is found in about 100 tries
_SLOTS = 1 << _SLOT_BITS
_SLOT_SHIFT = 32 - _SLOT_BITS
_NOT_COUNTED = _SLOTS * _SLOTS  # a cell beyond the others, so that the loop needs no branch


@njit(error_model="numpy")
def _pick_two(x, bounds, first, second):
    """pick's first[i] and second[i]. In one chain each comparison is used up at once: 4 to 10 % faster than two."""
    one, two = first[0], second[0]
    one, two = (first[1], second[1]) if x > bounds[0] else (one, two)
    one, two = (first[2], second[2]) if x > bounds[1] else (one, two)
    one, two = (first[3], second[3]) if x > bounds[2] else (one, two)
    one, two = (first[4], second[4]) if x > bounds[3] else (one, two)
    one, two = (first[5], second[5]) if x > bounds[4] else (one, two)
    one, two = (first[6], second[6]) if x > bounds[5] else (one, two)
    one, two = (first[7], second[7]) if x > bounds[6] else (one, two)
    one, two = (first[8], second[8]) if x > bounds[7] else (one, two)
    one, two = (first[9], second[9]) if x > bounds[8] else (one, two)
    one, two = (first[10], second[10]) if x > bounds[9] else (one, two)
    one, two = (first[11], second[11]) if x > bounds[10] else (one, two)
    one, two = (first[12], second[12]) if x > bounds[11] else (one, two)
    one, two = (first[13], second[13]) if x > bounds[12] else (one, two)
    one, two = (first[14], second[14]) if x > bounds[13] else (one, two)
    return (first[15], second[15]) if x > bounds[14] else (one, two)


def _slots_of(levels: npt.NDArray[np.float32]) -> tuple[np.uint32, tuple[int, ...]]:
    """A multiplier whose products with the levels' bits differ in their upper _SLOT_BITS; those bits, level -> slot.

    With it the vector loop, which has each weight's level at hand, counts by level at the cost of a multiplication; to
    pick the level's number as well would be another 15 selects a side.
    """
    bits = levels.view(np.uint32)
    for multiplier in np.random.default_rng(0).integers(0, 1 << 32, size=100_000, dtype=np.uint32):
        slots = (bits * multiplier) >> np.uint32(_SLOT_SHIFT)
        if len(set(slots.tolist())) == len(levels):
            return multiplier, tuple(slots.tolist())
    raise ValueError("no multiplier tells these levels apart")


@functools.cache
def _pair_kernel(
    bounds: tuple[float, ...],
    levels: tuple[float, ...],
    inverse_widths: tuple[float, ...],
    size: int,
    round_o: int,
    round_u: int,
    counts_updates: bool,
) -> Any:
    """The loop for one grid, block size and pair of types, which become constants in it: that makes it far faster."""
    bound = tuple(np.float32(value) for value in bounds)
    level = tuple(np.float32(value) for value in levels)
    inverse_width = tuple(np.float32(value) for value in inverse_widths)
    bucket = tuple(np.int32(number) for number in range(LEVELS))
    multiplier, slot = _slots_of(np.array(levels, np.float32))
    few_changed = int(FEW_CHANGED * size)

    @compiled(nogil=True)
    def kernel(original, unlearned, scales_o, scales_u, first_chunk, last_chunk, sums, updates, ratios, transitions):
        rounded, update = np.empty(size, np.float32), np.empty(size, np.float32)
        update_bin, ratio_bin = np.empty(size, np.uint32), np.empty(size, np.uint32)
        cell, cells = np.empty(size, np.uint32), np.zeros(_NOT_COUNTED + 1, np.int32)
        given = scales_o.shape[0] > 0

        for chunk in range(first_chunk, last_chunk):
            identical = 0
            dot, update_squared, rounded_squared, update_max = 0.0, 0.0, 0.0, 0.0
            for block in range(chunk * BLOCKS_PER_CHUNK, min((chunk + 1) * BLOCKS_PER_CHUNK, original.shape[0])):
                largest_o, largest_u, changed = scan(original, unlearned, block, size)
                if largest_o >= INFINITY_BITS or largest_u >= INFINITY_BITS:
                    for i in range(size):
                        nonfinite_o = np.int32(as_bits(original[block, i]) & ABSOLUTE_BITS) >= INFINITY_BITS
                        nonfinite_u = np.int32(as_bits(unlearned[block, i]) & ABSOLUTE_BITS) >= INFINITY_BITS
                        sums[chunk, NONFINITE_ORIGINAL] += nonfinite_o
                        sums[chunk, NONFINITE_UNLEARNED] += nonfinite_u
                    continue
                identical += size - changed
                absmax_o, absmax_u = np.int32(largest_o).view(np.float32), np.int32(largest_u).view(np.float32)
                scale_o = scales_o[block] if given else absmax_o
                scale_u = scales_u[block] if given else absmax_u
                same_scale = largest_o == largest_u and scale_o == scale_u
                if changed == 0 and same_scale:
                    continue
                inverse_o = np.float32(1.0) / max(absmax_o, SMALLEST_ABSMAX)
                inverse_u = np.float32(1.0) / max(absmax_u, SMALLEST_ABSMAX)

                if (same_scale and changed <= few_changed) or max(largest_o, largest_u) >= HUGE_BITS:
                    for i in range(size):
                        unchanged = original[block, i] == unlearned[block, i]
                        if unchanged and same_scale:
                            continue
                        o = np.int32(as_bits(original[block, i])).view(np.float32)
                        u = np.int32(as_bits(unlearned[block, i])).view(np.float32)
                        bucket_o, bucket_u = pick(o * inverse_o, bound, bucket), pick(u * inverse_u, bound, bucket)
                        rounded_o = in_dtype(level[bucket_o] * scale_o, round_o)
                        rounded_u = in_dtype(level[bucket_u] * scale_u, round_u)
                        r = np.float64(rounded_u) - np.float64(rounded_o)
                        d = np.float64(u) - np.float64(o)
                        dot += r * d
                        update_squared += d * d
                        rounded_squared += r * r
                        update_max = max(update_max, abs(d))
                        if not unchanged:
                            if counts_updates:
                                updates[bin_of(abs(u - o))] += np.int32(1)
                            ratios[bin_of(abs(u - o) * inverse_o * inverse_width[bucket_o])] += np.int32(1)
                        if not unchanged or bucket_o != bucket_u:
                            transitions[bucket_o * LEVELS + bucket_u] += np.int32(1)
                    continue

                largest_update = np.uint32(0)
                for i in range(size):
                    o = np.int32(as_bits(original[block, i])).view(np.float32)
                    u = np.int32(as_bits(unlearned[block, i])).view(np.float32)
                    x, y = o * inverse_o, u * inverse_u
                    level_o, per_width = _pick_two(x, bound, level, inverse_width)
                    level_u = pick(y, bound, level)
                    # By bits, which tell fp4's two zeros apart: one is negative.
                    bits_o, bits_u = np.float32(level_o).view(np.uint32), np.float32(level_u).view(np.uint32)
                    slot_o = np.uint32(bits_o * multiplier) >> np.uint32(_SLOT_SHIFT)
                    slot_u = np.uint32(bits_u * multiplier) >> np.uint32(_SLOT_SHIFT)
                    not_counted = (bits_o == bits_u) & (original[block, i] == unlearned[block, i])
                    pair_cell = np.uint32((slot_o << np.uint32(_SLOT_BITS)) | slot_u)
                    cell[i] = np.uint32(_NOT_COUNTED) if not_counted else pair_cell
                    rounded[i] = in_dtype(level_u * scale_u, round_u) - in_dtype(level_o * scale_o, round_o)
                    d = u - o
                    update[i] = d
                    largest_update = max(largest_update, np.float32(abs(d)).view(np.uint32))
                    if counts_updates:
                        update_bin[i] = bin_of(abs(d))
                    ratio_bin[i] = bin_of(abs(d) * inverse_o * per_width)
                rounded_power = power_of_two_scale(max(largest_o, largest_u))
                update_power = power_of_two_scale(np.int32(largest_update))
                # Before the sums that follow, so that the processor does both at once: 5 % faster than after them.
                for i in range(size):
                    if counts_updates:
                        updates[update_bin[i]] += np.int32(1)
                    ratios[ratio_bin[i]] += np.int32(1)
                    cells[cell[i]] += np.int32(1)
                block_dot, block_update, block_rounded = inner_products(
                    rounded, update, rounded_power, update_power, size
                )
                rounded_unit, update_unit = 1.0 / np.float64(rounded_power), 1.0 / np.float64(update_power)
                dot += np.float64(block_dot) * (rounded_unit * update_unit)
                update_squared += np.float64(block_update) * (update_unit * update_unit)
                rounded_squared += np.float64(block_rounded) * (rounded_unit * rounded_unit)
                update_max = max(update_max, np.float64(np.uint32(largest_update).view(np.float32)))
                # Take out the weights that did not change: they were counted in the first bins with the others.
                if counts_updates:
                    updates[0] -= size - changed
                ratios[0] -= size - changed
            sums[chunk, IDENTICAL] += identical
            sums[chunk, DOT] += dot
            sums[chunk, UPDATE_SQUARED] += update_squared
            sums[chunk, ROUNDED_SQUARED] += rounded_squared
            sums[chunk, UPDATE_MAX] = max(sums[chunk, UPDATE_MAX], update_max)
        for i in range(LEVELS):
            for j in range(LEVELS):
                transitions[i * LEVELS + j] += cells[slot[i] * _SLOTS + slot[j]]

    return kernel


def fits(grid: LevelTable) -> bool:
    """Return True if the loop can do a grid: 16 levels, no two the same to the bit (one of two zeros is negative)."""
    return len(np.unique(grid.levels.view(np.uint32))) == len(grid.levels) == LEVELS


def kernel_for(grid: LevelTable, round_o: int, round_u: int, *, counts_updates: bool) -> Any:
    """The loop for a grid that fits, scaled as bitsandbytes does it: w * (1 / max(absmax, 1e-38)).

    Args:
        grid: the scheme's.
        round_o, round_u: what each side's dequantized values are rounded to.
        counts_updates: whether magnitudes of updates are counted, which depend on no scheme.

    Returns:
        kernel(original, unlearned, scales_o, scales_u, first_chunk, last_chunk, sums, updates, ratios, transitions).
        original and unlearned are [blocks, block size], the bits of float32 (int32) or of bfloat16 (uint16); scales_*
        are float32 [blocks] to dequantize with, or empty if that is each block's absmax. Added to: sums, float64
        [chunks, COLUMNS], and the counts, int32: updates and ratios [BINS], and transitions [LEVELS * LEVELS]. A call
        may be given up to 2^31 - 1 weights: more could overflow a count. Runs without the interpreter's lock.
    """
    return _pair_kernel(
        tuple(grid.bounds.tolist()),
        tuple(grid.levels.tolist()),
        tuple((1.0 / grid.widths).tolist()),
        grid.block_size,
        round_o,
        round_u,
        counts_updates,
    )

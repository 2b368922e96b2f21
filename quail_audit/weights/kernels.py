"""The hot loop over a pair of matrices on a CPU: every statistic of DESIGN section 2 in one pass.

One block of weights is read once on both sides, scaled, bucketed, dequantized and summed while it is in registers and
first-level cache. Blocks that are bitwise equal cost a comparison; blocks where few weights changed and the scale stayed
are done weight by weight. Sums inside a block are float32, between blocks float64, with each block first scaled by
a power of two, so that no magnitude a float32 can hold under- or overflows.
Medians come from counts: a magnitude falls in a bin by the upper 16 bits of its float32 (sign left out), so
a median read off the bins is within 0.2 % of the exact one.
Not here: what the sums mean (overlap.py).
"""

import functools
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from quail_audit.schemes.blocks import ABSOLUTE_BITS, SMALLEST_ABSMAX, pick
from quail_audit.schemes.interface import Grid

BLOCKS_PER_CHUNK = 4096  # sums are kept by chunk and added in order, so that they do not depend on the threads
FEW_CHANGED = 16  # of a block's 64 weights: below this, weight by weight is faster
BINS = 1 << 16
BIN_SHIFT = 15  # a float32's bits without the sign, shifted right by this, are its bin

# Columns of a chunk's sums.
IDENTICAL, SAME_CODE, DOT, UPDATE_SQUARED, ROUNDED_SQUARED, UPDATE_MAX, NONFINITE_ORIGINAL, NONFINITE_UNLEARNED = range(8)
COLUMNS = 8

# What dequantized values are rounded to, as they are in the deployed model.
ROUND_TO_FLOAT32, ROUND_TO_BFLOAT16, ROUND_TO_FLOAT16 = range(3)

_INFINITY_BITS = np.int32(0x7F800000)
_LARGEST = np.float32(np.finfo(np.float32).max)
_SMALLEST_NORMAL_FLOAT16 = np.float32(2.0**-14)


def _as_bits(stored):  # type: ignore[no-untyped-def]
    """The bits of a float32, from the bits of a float32 (int32) or of a bfloat16 (uint16), which is its upper half."""
    raise NotImplementedError


@overload(_as_bits)
def _as_bits_of(stored):  # type: ignore[no-untyped-def]
    if stored == types.uint16:
        return lambda stored: np.int32(np.uint32(stored) << np.uint32(16))
    return lambda stored: stored


def _scan(original, unlearned, block):  # type: ignore[no-untyped-def]
    """Largest magnitudes of both sides of a block (as bits of a float32), and how many of its weights differ."""
    raise NotImplementedError


@overload(_scan)
def _scan_of(original, unlearned, block):  # type: ignore[no-untyped-def]
    def scan32(original, unlearned, block):  # type: ignore[no-untyped-def]
        largest_o, largest_u, changed = np.int32(0), np.int32(0), np.int32(0)
        for i in range(original.shape[1]):
            o, u = original[block, i], unlearned[block, i]
            changed = np.int32(changed + np.int32(o != u))
            largest_o = max(largest_o, np.int32(o & ABSOLUTE_BITS))
            largest_u = max(largest_u, np.int32(u & ABSOLUTE_BITS))
        return largest_o, largest_u, changed

    def scan16(original, unlearned, block):  # type: ignore[no-untyped-def]
        largest_o, largest_u, changed = np.uint16(0), np.uint16(0), np.uint16(0)
        for i in range(original.shape[1]):
            o, u = original[block, i], unlearned[block, i]
            changed = np.uint16(changed + np.uint16(o != u))
            largest_o = max(largest_o, np.uint16(o & np.uint16(0x7FFF)))
            largest_u = max(largest_u, np.uint16(u & np.uint16(0x7FFF)))
        return np.int32(np.int32(largest_o) << 16), np.int32(np.int32(largest_u) << 16), np.int32(changed)

    return scan16 if original.dtype == types.uint16 else scan32


@njit(error_model="numpy")
def _to_bfloat16(bits):  # type: ignore[no-untyped-def]
    """Bits of a float32 -> bits of the nearest bfloat16, ties to even."""
    return np.uint32((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000))


@njit(error_model="numpy")
def _round_block(values, bits, size, kind):  # type: ignore[no-untyped-def]
    """Round the first float32 values, seen also as their bits, to a narrower type in place; ties to even."""
    if kind == ROUND_TO_BFLOAT16:
        for i in range(size):
            bits[i] = _to_bfloat16(bits[i])
    elif kind == ROUND_TO_FLOAT16:
        for i in range(size):
            value = values[i]
            magnitude = abs(value)
            # below 2^-14 a float16 is a multiple of 2^-24, as every float32 between 0.5 and 1 is
            small = (magnitude + np.float32(0.5)) - np.float32(0.5)
            normal = np.uint32(
                (bits[i] + np.uint32(0xFFF) + ((bits[i] >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
            )
            signed_small = -small if value < np.float32(0.0) else small
            values[i] = signed_small if magnitude < _SMALLEST_NORMAL_FLOAT16 else np.uint32(normal).view(np.float32)


@njit(error_model="numpy", fastmath={"reassoc", "nsz", "contract"})
def _inner_products(rounded, update):  # type: ignore[no-untyped-def]
    """<rounded, update>, |update|^2 and |rounded|^2. Only here may the order of additions be the compiler's choice."""
    dot, update_squared, rounded_squared = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for i in range(rounded.shape[0]):
        dot += rounded[i] * update[i]
        update_squared += update[i] * update[i]
        rounded_squared += rounded[i] * rounded[i]
    return dot, update_squared, rounded_squared


@njit(error_model="numpy")
def _power_of_two_scale(bits):  # type: ignore[no-untyped-def]
    """2^-e for a magnitude of about 2^e: multiplying by it is exact, and brings the magnitude to between 1 and 4."""
    exponent = min(max(bits >> 23, np.int32(1)), np.int32(253))
    return np.int32(np.int32(254 - exponent) << 23).view(np.float32)


@functools.cache
def pair_kernel(bounds: tuple[float, ...], levels: tuple[float, ...], inverse_widths: tuple[float, ...]) -> Any:
    """The loop for one grid, whose figures become constants in it.

    Args:
        bounds, levels, inverse_widths: of the grid's 16 buckets, for a scale of 1.

    Returns:
        kernel(original, unlearned, scales_o, scales_u, round_o, round_u, first_chunk, last_chunk, sums, updates, ratios):
        original and unlearned are bits [blocks, block size], int32 of float32 or uint16 of bfloat16; scales_* are float32 [blocks] to dequantize with, or empty
        where that is each block's absmax; sums is float64 [chunks, COLUMNS] and updates, ratios are int32 [BINS], all
        added to.
    """
    bound = tuple(np.float32(value) for value in bounds)
    level = tuple(np.float32(value) for value in levels)
    bucket = tuple(np.int32(number) for number in range(len(levels)))
    # Two buckets may have one level (fp4's two zeros); then the bound between them tells their codes apart.
    twins = [bound[i] for i in range(len(bound)) if level[i] == level[i + 1]]
    between_twins = twins[0] if twins else np.float32(2.0)  # beyond any scaled weight
    inverse_width = tuple(np.float32(value) for value in inverse_widths)

    @njit(error_model="numpy", cache=True, nogil=True)  # type: ignore[untyped-decorator]
    def kernel(  # type: ignore[no-untyped-def]
        original, unlearned, scales_o, scales_u, round_o, round_u, first_chunk, last_chunk, sums, updates, ratios
    ):
        size = original.shape[1]
        weights_o, weights_u = np.empty(size, np.float32), np.empty(size, np.float32)
        bits_o, bits_u = weights_o.view(np.int32), weights_u.view(np.int32)
        rounded_o, rounded_u = np.empty(size, np.float32), np.empty(size, np.float32)
        rounded_bits_o, rounded_bits_u = rounded_o.view(np.uint32), rounded_u.view(np.uint32)
        update, rounded = np.empty(size, np.float32), np.empty(size, np.float32)
        magnitude, ratio = np.empty(size, np.float32), np.empty(size, np.float32)
        magnitude_bits, ratio_bits = magnitude.view(np.uint32), ratio.view(np.uint32)
        given = scales_o.shape[0] > 0

        for chunk in range(first_chunk, last_chunk):
            identical, same_code = 0, 0
            dot, update_squared, rounded_squared = 0.0, 0.0, 0.0
            update_max = np.float32(0.0)
            for block in range(chunk * BLOCKS_PER_CHUNK, min((chunk + 1) * BLOCKS_PER_CHUNK, original.shape[0])):
                largest_o, largest_u, changed = _scan(original, unlearned, block)
                if largest_o >= _INFINITY_BITS or largest_u >= _INFINITY_BITS:
                    for i in range(size):
                        nonfinite_o = np.int32(_as_bits(original[block, i]) & ABSOLUTE_BITS) >= _INFINITY_BITS
                        nonfinite_u = np.int32(_as_bits(unlearned[block, i]) & ABSOLUTE_BITS) >= _INFINITY_BITS
                        sums[chunk, NONFINITE_ORIGINAL] += nonfinite_o
                        sums[chunk, NONFINITE_UNLEARNED] += nonfinite_u
                    continue
                identical += size - changed
                absmax_o, absmax_u = np.int32(largest_o).view(np.float32), np.int32(largest_u).view(np.float32)
                scale_o = scales_o[block] if given else absmax_o
                scale_u = scales_u[block] if given else absmax_u
                same_scale = scale_o == scale_u
                if changed == 0 and same_scale:
                    same_code += size
                    continue

                inverse_o = np.float32(1.0) / max(absmax_o, SMALLEST_ABSMAX)
                inverse_u = np.float32(1.0) / max(absmax_u, SMALLEST_ABSMAX)
                power = _power_of_two_scale(max(largest_o, largest_u))
                unscale = 1.0 / np.float64(power)
                unscale *= unscale

                if same_scale and largest_o == largest_u and changed <= FEW_CHANGED:
                    same_code += size
                    for i in range(size):
                        if original[block, i] == unlearned[block, i]:
                            continue
                        weights_o[0] = np.int32(_as_bits(original[block, i])).view(np.float32)
                        weights_u[0] = np.int32(_as_bits(unlearned[block, i])).view(np.float32)
                        o, u = weights_o[0], weights_u[0]
                        in_o, in_u = pick(o * inverse_o, bound, bucket), pick(u * inverse_u, bound, bucket)
                        same_code -= in_o != in_u
                        difference = min(abs(u - o), _LARGEST)
                        update_max = max(update_max, difference)
                        step = np.float64(u * power - o * power)
                        rounded_o[0] = level[in_o] * scale_o
                        rounded_u[0] = level[in_u] * scale_u
                        _round_block(rounded_o, rounded_bits_o, 1, round_o)
                        _round_block(rounded_u, rounded_bits_u, 1, round_u)
                        rounded_step = np.float64(rounded_u[0] * power - rounded_o[0] * power)
                        dot += step * rounded_step * unscale
                        update_squared += step * step * unscale
                        rounded_squared += rounded_step * rounded_step * unscale
                        magnitude[0] = difference
                        ratio[0] = difference * inverse_o * inverse_width[in_o]
                        updates[magnitude_bits[0] >> np.uint32(BIN_SHIFT)] += 1
                        ratios[ratio_bits[0] >> np.uint32(BIN_SHIFT)] += 1
                    continue

                for i in range(size):
                    bits_o[i] = _as_bits(original[block, i])
                    bits_u[i] = _as_bits(unlearned[block, i])
                same = np.int32(0)
                for i in range(size):
                    o, u = weights_o[i], weights_u[i]
                    x, y = o * inverse_o, u * inverse_u
                    level_o, level_u = pick(x, bound, level), pick(y, bound, level)
                    same_bucket = (level_o == level_u) & ((x > between_twins) == (y > between_twins))
                    same = np.int32(same + np.int32(same_bucket))
                    rounded_o[i] = level_o * scale_o
                    rounded_u[i] = level_u * scale_u
                    difference = min(abs(u - o), _LARGEST)
                    magnitude[i] = difference
                    ratio[i] = difference * inverse_o * pick(x, bound, inverse_width)
                    update[i] = u * power - o * power
                same_code += same
                _round_block(rounded_o, rounded_bits_o, size, round_o)
                _round_block(rounded_u, rounded_bits_u, size, round_u)
                largest_bits = np.uint32(0)
                for i in range(size):
                    rounded[i] = rounded_u[i] * power - rounded_o[i] * power
                    largest_bits = max(largest_bits, magnitude_bits[i])
                update_max = max(update_max, np.uint32(largest_bits).view(np.float32))
                block_dot, block_update, block_rounded = _inner_products(rounded, update)
                dot += np.float64(block_dot) * unscale
                update_squared += np.float64(block_update) * unscale
                rounded_squared += np.float64(block_rounded) * unscale
                for i in range(size):
                    updates[magnitude_bits[i] >> np.uint32(BIN_SHIFT)] += np.int32(1)
                    ratios[ratio_bits[i] >> np.uint32(BIN_SHIFT)] += np.int32(1)
                if changed < size:  # unchanged weights went into the first bins with the others: take them out
                    updates[0] -= size - changed
                    ratios[0] -= size - changed
            sums[chunk, IDENTICAL] += identical
            sums[chunk, SAME_CODE] += same_code
            sums[chunk, DOT] += dot
            sums[chunk, UPDATE_SQUARED] += update_squared
            sums[chunk, ROUNDED_SQUARED] += rounded_squared
            sums[chunk, UPDATE_MAX] = max(sums[chunk, UPDATE_MAX], np.float64(update_max))

    return kernel


def kernel_for(grid: Grid) -> Any:
    """pair_kernel for a scheme's grid; its outer buckets end at plus and minus the scale."""
    edges = np.concatenate(([-1.0], grid.bounds.astype(np.float64), [1.0]))
    return pair_kernel(tuple(grid.bounds.tolist()), tuple(grid.levels.tolist()), tuple((1.0 / np.diff(edges)).tolist()))

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
"""The hot loop over a pair of matrices on a CPU: every statistic that Quail reports of a layer, in one pass.

A block of weights is read once on both sides, scaled, bucketed, dequantized and summed while it is in the first-level
cache. Blocks that are bitwise equal cost a comparison; blocks where few weights changed and the scale stayed are done
weight by weight. Sums inside a block are float32, with the differences first scaled by powers of two so that no
magnitude under- or overflows; between blocks they are float64.
Medians come from counts: a magnitude is counted in a bin by the upper 16 bits of its float32 (sign left out), so that a
median read off the bins is within 0.2 % of the exact one (below 1e-38, within 2.3e-41).
Not here: what the sums mean (overlap.py).
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import overload

from quail_audit.schemes.blocks import ABSOLUTE_BITS, LEVELS, SMALLEST_ABSMAX, compiled, pick
from quail_audit.schemes.interface import Grid

BLOCKS_PER_CHUNK = 4096  # sums are kept by chunk and added in order, so that they do not depend on the threads
FEW_CHANGED = 0.25  # of a block: up to this share, weight by weight is faster
BINS = 1 << 16
BIN_SHIFT = 15  # a float32's bits without the sign, shifted right by this, are its bin
LAST_BIN = 0xFEFF  # of finite magnitudes; the next one has those beyond a float32

# Columns of a chunk's sums.
IDENTICAL, SAME_CODE, DOT, UPDATE_SQUARED = range(4)
ROUNDED_SQUARED, UPDATE_MAX, NONFINITE_ORIGINAL, NONFINITE_UNLEARNED = range(4, 8)
COLUMNS = 8

# What dequantized values are rounded to, as they are in the deployed model.
ROUND_TO_FLOAT32, ROUND_TO_BFLOAT16, ROUND_TO_FLOAT16 = range(3)

_INFINITY_BITS = np.int32(0x7F800000)
_HUGE_BITS = np.int32(0x7E800000)  # 2^126: differences of smaller weights cannot overflow
_SMALLEST_NORMAL_FLOAT16 = np.float32(2.0**-14)


def _as_bits(stored):
    """The bits of a float32, from the bits of a float32 (int32) or of a bfloat16 (uint16), which is its upper half."""
    raise NotImplementedError


@overload(_as_bits)
def _as_bits_of(stored):
    if stored == types.uint16:
        return lambda stored: np.int32(np.uint32(stored) << np.uint32(16))
    return lambda stored: stored


def _scan(original, unlearned, block, size):
    """Largest magnitudes of both sides of a block (as bits of a float32), and how many of its weights differ."""
    raise NotImplementedError


@overload(_scan)
def _scan_of(original, unlearned, block, size):
    def scan32(original, unlearned, block, size):
        largest_o, largest_u, changed = np.int32(0), np.int32(0), np.int32(0)
        for i in range(size):
            o, u = original[block, i], unlearned[block, i]
            changed = np.int32(changed + np.int32(o != u))
            largest_o = max(largest_o, np.int32(o & ABSOLUTE_BITS))
            largest_u = max(largest_u, np.int32(u & ABSOLUTE_BITS))
        return largest_o, largest_u, changed

    def scan16(original, unlearned, block, size):
        largest_o, largest_u, changed = np.uint16(0), np.uint16(0), np.uint16(0)
        for i in range(size):
            o, u = original[block, i], unlearned[block, i]
            changed = np.uint16(changed + np.uint16(o != u))
            largest_o = max(largest_o, np.uint16(o & np.uint16(0x7FFF)))
            largest_u = max(largest_u, np.uint16(u & np.uint16(0x7FFF)))
        return np.int32(np.int32(largest_o) << 16), np.int32(np.int32(largest_u) << 16), np.int32(changed)

    return scan16 if original.dtype == types.uint16 else scan32


@njit(error_model="numpy")
def _to_bfloat16(bits):
    """Bits of a float32 -> bits of the nearest bfloat16, ties to even."""
    return np.uint32((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000))


@njit(error_model="numpy")
def _to_float16(bits):
    """Bits of a float32 -> bits of the nearest value that a float16 has, ties to even."""
    magnitude = np.uint32(bits & np.uint32(ABSOLUTE_BITS)).view(np.float32)
    normal = np.uint32((bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000))
    # below 2^-14 a float16 is a multiple of 2^-24, as every float32 between 0.5 and 1 is
    small = np.float32((magnitude + np.float32(0.5)) - np.float32(0.5)).view(np.uint32)
    signed_small = np.uint32(small | (bits & np.uint32(0x80000000)))
    return signed_small if magnitude < _SMALLEST_NORMAL_FLOAT16 else normal


@njit(error_model="numpy")
def _deployed(value, kind):
    """A dequantized value as the deployed model has it: rounded to the type of the weights."""
    bits = np.float32(value).view(np.uint32)
    if kind == ROUND_TO_BFLOAT16:
        bits = _to_bfloat16(bits)
    elif kind == ROUND_TO_FLOAT16:
        bits = _to_float16(bits)
    return np.uint32(bits).view(np.float32)


@njit(error_model="numpy")
def _bin(magnitude):
    """Where a magnitude is counted."""
    return np.uint32(np.float32(magnitude).view(np.uint32) >> np.uint32(BIN_SHIFT))


@njit(error_model="numpy", fastmath={"reassoc", "nsz", "contract"})
def _inner_products(rounded, update, rounded_power, update_power, size):
    """<r, d>, |d|^2 and |r|^2 of a block's scaled differences. Only here may the compiler reorder additions."""
    dot, update_squared, rounded_squared = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for i in range(size):
        r = rounded[i] * rounded_power
        d = update[i] * update_power
        dot += r * d
        update_squared += d * d
        rounded_squared += r * r
    return dot, update_squared, rounded_squared


@njit(error_model="numpy")
def _power_of_two_scale(bits):
    """2^-e for a magnitude of about 2^e: multiplying by it is exact, and brings the magnitude to between 1 and 4."""
    exponent = min(max(bits >> 23, np.int32(1)), np.int32(253))
    return np.int32(np.int32(254 - exponent) << 23).view(np.float32)


@functools.cache
def _pair_kernel(
    bounds: tuple[float, ...],
    levels: tuple[float, ...],
    inverse_widths: tuple[float, ...],
    size: int,
    round_o: int,
    round_u: int,
) -> Any:
    """The loop for one grid, block size and pair of types, which become constants in it: that makes it far faster."""
    bound = tuple(np.float32(value) for value in bounds)
    level = tuple(np.float32(value) for value in levels)
    inverse_width = tuple(np.float32(value) for value in inverse_widths)
    bucket = tuple(np.int32(number) for number in range(LEVELS))
    # Two buckets may have one level (fp4's two zeros); then the bound between them tells their codes apart.
    twins = [bound[i] for i in range(LEVELS - 1) if level[i] == level[i + 1]]
    has_twins = bool(twins)
    between_twins = twins[0] if has_twins else np.float32(0.0)
    few_changed = int(FEW_CHANGED * size)

    @compiled(nogil=True)
    def kernel(original, unlearned, scales_o, scales_u, first_chunk, last_chunk, sums, updates, ratios):
        rounded, update = np.empty(size, np.float32), np.empty(size, np.float32)
        update_bin, ratio_bin = np.empty(size, np.uint32), np.empty(size, np.uint32)
        given = scales_o.shape[0] > 0

        for chunk in range(first_chunk, last_chunk):
            identical, same_code = 0, 0
            dot, update_squared, rounded_squared, update_max = 0.0, 0.0, 0.0, 0.0
            for block in range(chunk * BLOCKS_PER_CHUNK, min((chunk + 1) * BLOCKS_PER_CHUNK, original.shape[0])):
                largest_o, largest_u, changed = _scan(original, unlearned, block, size)
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
                same_scale = largest_o == largest_u and scale_o == scale_u
                if changed == 0 and same_scale:
                    same_code += size
                    continue
                inverse_o = np.float32(1.0) / max(absmax_o, SMALLEST_ABSMAX)
                inverse_u = np.float32(1.0) / max(absmax_u, SMALLEST_ABSMAX)

                if (same_scale and changed <= few_changed) or max(largest_o, largest_u) >= _HUGE_BITS:
                    for i in range(size):
                        unchanged = original[block, i] == unlearned[block, i]
                        if unchanged and same_scale:
                            same_code += 1
                            continue
                        o = np.int32(_as_bits(original[block, i])).view(np.float32)
                        u = np.int32(_as_bits(unlearned[block, i])).view(np.float32)
                        bucket_o, bucket_u = pick(o * inverse_o, bound, bucket), pick(u * inverse_u, bound, bucket)
                        same_code += bucket_o == bucket_u
                        rounded_o = _deployed(level[bucket_o] * scale_o, round_o)
                        rounded_u = _deployed(level[bucket_u] * scale_u, round_u)
                        r = np.float64(rounded_u) - np.float64(rounded_o)
                        d = np.float64(u) - np.float64(o)
                        dot += r * d
                        update_squared += d * d
                        rounded_squared += r * r
                        update_max = max(update_max, abs(d))
                        if not unchanged:
                            updates[_bin(abs(u - o))] += np.int32(1)
                            ratios[_bin(abs(u - o) * inverse_o * inverse_width[bucket_o])] += np.int32(1)
                    continue

                same, largest_update = np.int32(0), np.uint32(0)
                for i in range(size):
                    o = np.int32(_as_bits(original[block, i])).view(np.float32)
                    u = np.int32(_as_bits(unlearned[block, i])).view(np.float32)
                    x, y = o * inverse_o, u * inverse_u
                    level_o, level_u = pick(x, bound, level), pick(y, bound, level)
                    same_bucket = level_o == level_u
                    if has_twins:
                        same_bucket &= (x > between_twins) == (y > between_twins)
                    same = np.int32(same + np.int32(same_bucket))
                    rounded[i] = _deployed(level_u * scale_u, round_u) - _deployed(level_o * scale_o, round_o)
                    d = u - o
                    update[i] = d
                    largest_update = max(largest_update, np.float32(abs(d)).view(np.uint32))
                    update_bin[i] = _bin(abs(d))
                    ratio_bin[i] = _bin(abs(d) * inverse_o * pick(x, bound, inverse_width))
                same_code += same
                rounded_power = _power_of_two_scale(max(largest_o, largest_u))
                update_power = _power_of_two_scale(np.int32(largest_update))
                # Before the sums that follow, so that the processor does both at once: 5 % faster than after them.
                for i in range(size):
                    updates[update_bin[i]] += np.int32(1)
                    ratios[ratio_bin[i]] += np.int32(1)
                block_dot, block_update, block_rounded = _inner_products(
                    rounded, update, rounded_power, update_power, size
                )
                rounded_unit, update_unit = 1.0 / np.float64(rounded_power), 1.0 / np.float64(update_power)
                dot += np.float64(block_dot) * (rounded_unit * update_unit)
                update_squared += np.float64(block_update) * (update_unit * update_unit)
                rounded_squared += np.float64(block_rounded) * (rounded_unit * rounded_unit)
                update_max = max(update_max, np.float64(np.uint32(largest_update).view(np.float32)))
                # Weights that did not change were counted in the first bins with the others: out again.
                updates[0] -= size - changed
                ratios[0] -= size - changed
            sums[chunk, IDENTICAL] += identical
            sums[chunk, SAME_CODE] += same_code
            sums[chunk, DOT] += dot
            sums[chunk, UPDATE_SQUARED] += update_squared
            sums[chunk, ROUNDED_SQUARED] += rounded_squared
            sums[chunk, UPDATE_MAX] = max(sums[chunk, UPDATE_MAX], update_max)

    return kernel


def kernel_for(grid: Grid, round_o: int, round_u: int) -> Any:
    """The loop for a grid of 16 levels, scaled as bitsandbytes does it: w * (1 / max(absmax, 1e-38)).

    Args:
        grid: the scheme's.
        round_o, round_u: what each side's dequantized values are rounded to.

    Returns:
        kernel(original, unlearned, scales_o, scales_u, first_chunk, last_chunk, sums, updates, ratios). original and
        unlearned are [blocks, block size], the bits of float32 (int32) or of bfloat16 (uint16); scales_* are float32
        [blocks] to dequantize with, or empty where that is each block's absmax. Added to: sums, float64 [chunks,
        COLUMNS], and the counts updates and ratios, int32 [BINS]. Runs without the interpreter's lock.
    """
    return _pair_kernel(
        tuple(grid.bounds.tolist()),
        tuple(grid.levels.tolist()),
        tuple((1.0 / bucket_widths(grid)).tolist()),
        grid.block_size,
        round_o,
        round_u,
    )


def bucket_widths(grid: Grid) -> npt.NDArray[np.float64]:
    """Of each level's bucket, for a scale of 1; the outer buckets end at plus and minus the scale."""
    return np.diff(np.concatenate(([-1.0], grid.bounds.astype(np.float64), [1.0])))

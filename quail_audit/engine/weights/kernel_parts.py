# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
"""Compile what both loops over blocks share: bits, rounding to a dtype, bins, sums.

Sums inside a block are float32, with the differences first scaled by powers of two so that no magnitude under- or
overflows; between blocks they are float64. Medians come from counts: a magnitude is counted in a bin by the upper 16
bits of its float32 (sign left out), so that a median read off the bins is within 0.2 % of the exact one (below 1e-38,
within 2.3e-41).
"""

import numpy as np
from numba import njit, types
from numba.extending import overload

from quail_audit.engine.schemes.absmax_blocks import ABSOLUTE_BITS, compiled

FEW_CHANGED = 0.25  # of a block: up to this share, weight by weight is faster
BINS = 1 << 16
BIN_SHIFT = 15  # a float32's bits without the sign, shifted right by this, are its bin
LAST_BIN = 0xFEFF  # of finite magnitudes; the next one has those beyond a float32

# Columns of a chunk's sums.
IDENTICAL, SAME_CODE, DOT, UPDATE_SQUARED, ROUNDED_SQUARED = range(5)
UPDATE_MAX, NONFINITE_ORIGINAL, NONFINITE_UNLEARNED = range(5, 8)
COLUMNS = 8

# The types that dequantized values are rounded to, as they are in the deployed model.
ROUND_TO_FLOAT32, ROUND_TO_BFLOAT16, ROUND_TO_FLOAT16 = range(3)

INFINITY_BITS = np.int32(0x7F800000)
HUGE_BITS = np.int32(0x7E800000)  # 2^126: differences of smaller weights cannot overflow
_SMALLEST_NORMAL_FLOAT16 = np.float32(2.0**-14)


def as_bits(stored):
    """The bits of a float32, from the bits of a float32 (int32) or of a bfloat16 (uint16), which is its upper half."""
    raise NotImplementedError


@overload(as_bits)
def _as_bits_of(stored):
    if stored == types.uint16:
        return lambda stored: np.int32(np.uint32(stored) << np.uint32(16))
    return lambda stored: stored


def scan(original, unlearned, block, size):
    """Largest magnitudes of both sides of a block (as bits of a float32), and how many of its weights differ."""
    raise NotImplementedError


@overload(scan)
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
def in_dtype(value, kind):
    """A dequantized value as the deployed model has it: rounded to the type of the weights."""
    bits = np.float32(value).view(np.uint32)
    if kind == ROUND_TO_BFLOAT16:
        bits = _to_bfloat16(bits)
    elif kind == ROUND_TO_FLOAT16:
        bits = _to_float16(bits)
    return np.uint32(bits).view(np.float32)


@njit(error_model="numpy")
def bin_of(magnitude):
    """Return the bin in which a magnitude is counted."""
    return np.uint32(np.float32(magnitude).view(np.uint32) >> np.uint32(BIN_SHIFT))


@njit(error_model="numpy", fastmath={"reassoc", "nsz", "contract"}, forceinline=True)
def inner_products(rounded, update, rounded_power, update_power, size):
    """<r, d>, |d|^2 and |r|^2 of a block's scaled differences. Only here may the compiler reorder additions.

    Always inlined: a process that compiles a loop would else call this function as it was compiled by itself, one that
    loads the loop from disk its copy there, and the order of additions, with it the last bits, would not be the same.
    """
    dot, update_squared, rounded_squared = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for i in range(size):
        r = rounded[i] * rounded_power
        d = update[i] * update_power
        dot += r * d
        update_squared += d * d
        rounded_squared += r * r
    return dot, update_squared, rounded_squared


@njit(error_model="numpy")
def power_of_two_scale(bits):
    """2^-e for a magnitude of about 2^e: multiplying by it is exact, and brings the magnitude to between 1 and 4."""
    exponent = min(max(bits >> 23, np.int32(1)), np.int32(253))
    return np.int32(np.int32(254 - exponent) << 23).view(np.float32)


def _in_order(stored):
    """A weight's bits as an int32 that sorts as the weights do."""
    raise NotImplementedError


@overload(_in_order)
def _in_order_of(stored):
    if stored == types.uint16:

        def of16(stored):
            bits = np.int32(np.int16(stored))
            return np.int32(bits ^ ((bits >> np.int32(15)) & np.int32(0x7FFF)))

        return of16

    return lambda stored: np.int32(stored ^ ((stored >> np.int32(31)) & np.int32(0x7FFFFFFF)))


def _out_of_order(key, stored):
    """The weight of such an int32: float32. The other argument says what its bits are of."""
    raise NotImplementedError


@overload(_out_of_order)
def _out_of_order_of(key, stored):
    if stored == types.uint16:

        def of16(key, stored):
            bits = np.int32(key ^ ((key >> np.int32(15)) & np.int32(0x7FFF)))
            return np.int32(bits << np.int32(16)).view(np.float32)

        return of16

    return lambda key, stored: np.int32(key ^ ((key >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)


@compiled(nogil=True)
def extremes(bits, low, high, farthest):
    """Each block's smallest and largest weight, and the first of those farthest from zero: float32 [blocks] each.

    bits: [blocks, size] of float32 (int32) or of bfloat16 (uint16). Values that are not finite give anything.
    """
    for block in range(bits.shape[0]):
        first = _in_order(bits[block, 0])
        smallest, largest = first, first
        for i in range(bits.shape[1]):
            key = _in_order(bits[block, i])
            smallest = min(smallest, key)
            largest = max(largest, key)
        lowest, highest = _out_of_order(smallest, bits[block, 0]), _out_of_order(largest, bits[block, 0])
        low[block], high[block] = lowest, highest
        farthest[block] = lowest if -lowest > highest else highest
        if -lowest == highest:
            for i in range(bits.shape[1]):
                weight = np.int32(as_bits(bits[block, i])).view(np.float32)
                if abs(weight) == highest:
                    farthest[block] = weight
                    break


@compiled(nogil=True)
def merged_extremes(low, high, farthest, low_of_all, high_of_all, farthest_of_all):
    """Merge the extremes of parts into those of larger blocks: float32 [parts] each -> float32 [blocks] each."""
    parts = low.shape[0] // low_of_all.shape[0]
    for block in range(low_of_all.shape[0]):
        first = block * parts
        smallest, largest, far = low[first], high[first], farthest[first]
        for i in range(first + 1, first + parts):
            smallest = min(smallest, low[i])
            largest = max(largest, high[i])
            far = farthest[i] if abs(farthest[i]) > abs(far) else far
        low_of_all[block], high_of_all[block], farthest_of_all[block] = smallest, largest, far

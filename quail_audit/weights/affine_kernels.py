# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
"""The hot loop over a pair of matrices on a CPU for schemes with even levels (schemes/affine.py), in one pass.

What rounds a block comes with it, already computed; a code is a quotient rounded, so nothing is looked up.
Not here: schemes with a table of levels (kernels.py), what the sums mean (overlap.py).
"""

import functools
from typing import Any

import numpy as np
from numba import njit

from quail_audit.schemes.affine import AffineScheme
from quail_audit.schemes.blocks import ABSOLUTE_BITS, compiled
from quail_audit.weights.block_sums import (
    DOT,
    FEW_CHANGED,
    HUGE_BITS,
    IDENTICAL,
    INFINITY_BITS,
    NONFINITE_ORIGINAL,
    NONFINITE_UNLEARNED,
    ROUND_TO_FLOAT16,
    ROUND_TO_FLOAT32,
    ROUNDED_SQUARED,
    SAME_CODE,
    UPDATE_MAX,
    UPDATE_SQUARED,
    as_bits,
    bin_of,
    in_dtype,
    inner_products,
    power_of_two_scale,
    scan,
)

WEIGHTS_PER_CHUNK = 1 << 18  # sums are kept by chunk and added in order, so that they do not depend on the threads

# Rows of a block's parameters: schemes/affine.py's, and one over the width of its buckets.
INVERSE, START, ZERO, SCALE, BASE, PER_WIDTH = range(6)
PARAMETERS = 6

_FAR = np.float32(1024.0)  # beyond any code's quotient: what is clamped to it keeps its code
_MAGIC = np.float32(12582912.0)  # 1.5 * 2^23: adding and taking it away rounds to a whole number, ties to even
_EVEN, _AWAY, _CUT = range(3)
_ROUNDINGS = {"even": _EVEN, "away": _AWAY, "cut": _CUT}


@njit(error_model="numpy")
def _code(weight, inverse, start, zero, how, shift, lowest, highest, computing, from_float16):
    """A weight's code, counted from zero, not from the lowest: float32, a whole number."""
    w = in_dtype(weight, ROUND_TO_FLOAT16) if from_float16 else weight
    quotient = in_dtype((w - start) * inverse, computing)
    quotient = min(max(quotient, -_FAR), _FAR)
    if how == _CUT:
        code = np.float32(np.int32(quotient + shift))
    elif how == _EVEN:
        code = np.float32(np.float32(quotient + _MAGIC) - _MAGIC) + zero
    else:
        size = abs(quotient)
        whole = np.float32(np.int32(size))
        nearest = whole + np.float32(np.int32(np.float32(2.0) * (size - whole)))
        code = (-nearest if quotient < np.float32(0.0) else nearest) + zero
    return min(max(code, lowest), highest)


@functools.cache
def _pair_kernel(how: int, in_weights_dtype: bool, from_float16: bool, size: int, dtype_o: int, dtype_u: int) -> Any:
    """The loop for a way to round, block size and pair of types, which become constants in it: that makes it faster."""
    computing_o = dtype_o if in_weights_dtype else ROUND_TO_FLOAT32
    computing_u = dtype_u if in_weights_dtype else ROUND_TO_FLOAT32
    few_changed = int(FEW_CHANGED * size)
    blocks_per_chunk = WEIGHTS_PER_CHUNK // size

    @compiled(nogil=True)
    def kernel(original, unlearned, of_o, of_u, first_chunk, last_chunk, sums, updates, ratios, transitions, constants):
        low, high, offset, factor = constants[0], constants[1], constants[2], constants[3]
        # Where pairs of codes are not counted, everything is, in the first cell.
        by_original, by_unlearned = np.int32(constants[4]), np.int32(constants[4] > np.float32(0.0))
        not_counted = np.uint32(by_original * by_original)
        rounded, update = np.empty(size, np.float32), np.empty(size, np.float32)
        update_bin, ratio_bin = np.empty(size, np.uint32), np.empty(size, np.uint32)
        cell = np.empty(size, np.uint32)

        for chunk in range(first_chunk, last_chunk):
            identical, same_code = 0, 0
            dot, update_squared, rounded_squared, update_max = 0.0, 0.0, 0.0, 0.0
            for block in range(chunk * blocks_per_chunk, min((chunk + 1) * blocks_per_chunk, original.shape[0])):
                largest_o, largest_u, changed = scan(original, unlearned, block, size)
                if largest_o >= INFINITY_BITS or largest_u >= INFINITY_BITS:
                    for i in range(size):
                        nonfinite_o = np.int32(as_bits(original[block, i]) & ABSOLUTE_BITS) >= INFINITY_BITS
                        nonfinite_u = np.int32(as_bits(unlearned[block, i]) & ABSOLUTE_BITS) >= INFINITY_BITS
                        sums[chunk, NONFINITE_ORIGINAL] += nonfinite_o
                        sums[chunk, NONFINITE_UNLEARNED] += nonfinite_u
                    continue
                identical += size - changed
                inverse_o, inverse_u = of_o[INVERSE, block], of_u[INVERSE, block]
                start_o, start_u = of_o[START, block], of_u[START, block]
                zero_o, zero_u = of_o[ZERO, block], of_u[ZERO, block]
                scale_o, scale_u = of_o[SCALE, block], of_u[SCALE, block]
                base_o, base_u = of_o[BASE, block], of_u[BASE, block]
                per_width = of_o[PER_WIDTH, block]
                # A weight elsewhere in the row may be no number, or the range too wide: no code can be told then.
                for row in range(PARAMETERS):
                    if not (np.isfinite(of_o[row, block]) and np.isfinite(of_u[row, block])):
                        dot = np.nan
                if np.isnan(dot):
                    continue
                alike = (
                    inverse_o == inverse_u
                    and start_o == start_u
                    and zero_o == zero_u
                    and scale_o == scale_u
                    and base_o == base_u
                )
                if changed == 0 and alike:
                    same_code += size
                    continue

                if (alike and changed <= few_changed) or max(largest_o, largest_u) >= HUGE_BITS:
                    for i in range(size):
                        unchanged = original[block, i] == unlearned[block, i]
                        if unchanged and alike:
                            same_code += 1
                            continue
                        o = np.int32(as_bits(original[block, i])).view(np.float32)
                        u = np.int32(as_bits(unlearned[block, i])).view(np.float32)
                        code_o = _code(o, inverse_o, start_o, zero_o, how, offset, low, high, computing_o, from_float16)
                        code_u = _code(u, inverse_u, start_u, zero_u, how, offset, low, high, computing_u, from_float16)
                        rounded_o = in_dtype((code_o - zero_o) * scale_o * factor + base_o, dtype_o)
                        rounded_u = in_dtype((code_u - zero_u) * scale_u * factor + base_u, dtype_u)
                        r = np.float64(rounded_u) - np.float64(rounded_o)
                        d = np.float64(u) - np.float64(o)
                        dot += r * d
                        update_squared += d * d
                        rounded_squared += r * r
                        update_max = max(update_max, abs(d))
                        same_code += np.int64(code_o == code_u)
                        if not unchanged:
                            updates[bin_of(abs(u - o))] += np.int32(1)
                            ratios[bin_of(abs(u - o) * per_width)] += np.int32(1)
                        if not unchanged or code_o != code_u:
                            cell_o, cell_u = np.int32(code_o - low) * by_original, np.int32(code_u - low) * by_unlearned
                            transitions[cell_o + cell_u] += np.int32(1)
                    continue

                largest_update = np.uint32(0)
                same = np.int32(0)
                for i in range(size):
                    o = np.int32(as_bits(original[block, i])).view(np.float32)
                    u = np.int32(as_bits(unlearned[block, i])).view(np.float32)
                    code_o = _code(o, inverse_o, start_o, zero_o, how, offset, low, high, computing_o, from_float16)
                    code_u = _code(u, inverse_u, start_u, zero_u, how, offset, low, high, computing_u, from_float16)
                    same = np.int32(same + np.int32(code_o == code_u))
                    rounded[i] = in_dtype((code_u - zero_u) * scale_u * factor + base_u, dtype_u) - in_dtype(
                        (code_o - zero_o) * scale_o * factor + base_o, dtype_o
                    )
                    d = u - o
                    update[i] = d
                    largest_update = max(largest_update, np.float32(abs(d)).view(np.uint32))
                    update_bin[i] = bin_of(abs(d))
                    ratio_bin[i] = bin_of(abs(d) * per_width)
                    moved = (code_o != code_u) | (original[block, i] != unlearned[block, i])
                    cell_o, cell_u = np.int32(code_o - low) * by_original, np.int32(code_u - low) * by_unlearned
                    cell[i] = np.uint32(cell_o + cell_u) if moved else not_counted
                same_code += same
                rounded_power = power_of_two_scale(max(largest_o, largest_u))
                update_power = power_of_two_scale(np.int32(largest_update))
                for i in range(size):
                    updates[update_bin[i]] += np.int32(1)
                    ratios[ratio_bin[i]] += np.int32(1)
                    transitions[cell[i]] += np.int32(1)
                block_dot, block_update, block_rounded = inner_products(
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


def kernel_for(scheme: AffineScheme, size: int, round_o: int, round_u: int, *, counts_transitions: bool) -> Any:
    """The loop for a scheme.

    Args:
        scheme: with even levels.
        size: weights to a block, or to a piece of one.
        round_o, round_u: the dtypes of both sides, which values are rounded to.
        counts_transitions: whether pairs of codes are counted.

    Returns:
        kernel(original, unlearned, of_o, of_u, first_chunk, last_chunk, sums, updates, ratios, transitions).
        original, unlearned, sums, updates and ratios are as in kernels.py; of_o and of_u are float32
        [PARAMETERS, blocks]; transitions is int32 [levels * levels + 1], the last for weights that are equal in value
        and in code, or [1] where they are not counted. Chunks are of WEIGHTS_PER_CHUNK weights.
    """
    loop = _pair_kernel(
        _ROUNDINGS[scheme.rounding], scheme.in_weights_dtype, scheme.from_float16, size, round_o, round_u
    )
    counted = scheme.levels if counts_transitions else 0
    constants = np.array([scheme.lowest, scheme.highest, scheme.shift, scheme.unit, counted], np.float32)

    def kernel(*arguments: Any) -> None:
        loop(*arguments, constants)

    return kernel

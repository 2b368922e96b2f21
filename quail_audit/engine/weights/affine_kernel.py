# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
"""Compile the hot loop over a pair of matrices on a CPU, for schemes with even levels.

The loop is long on purpose: one pass makes every statistic. The parameters that round a block (schemes/affine.py) come
already computed; a code is a rounded quotient, so nothing is looked up.
"""

import functools
from typing import Any

import numpy as np
from numba import njit

from quail_audit.engine.schemes.absmax_blocks import ABSOLUTE_BITS, compiled
from quail_audit.engine.schemes.affine import AffineScheme
from quail_audit.engine.weights.kernel_parts import (
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

_MAGIC = np.float32(12582912.0)  # 1.5 * 2^23: adding and taking it away rounds to a whole number, ties to even
_STRIDE = 8  # weights that are compared at once where few of them changed
_EVEN, _AWAY, _CUT = range(3)
_ROUNDINGS = {"even": _EVEN, "away": _AWAY, "cut": _CUT}


@njit(error_model="numpy", forceinline=True)
def _steps(weight, inverse, start, zero, low, high, shift, how, from_float16, offsets, computing):
    """Return a weight's code less the one that stands for zero: float32, a whole number.

    The quotient is kept within its limits before it is rounded: they are whole, so it makes no difference.
    """
    w = in_dtype(weight, ROUND_TO_FLOAT16) if from_float16 else weight
    quotient = in_dtype((w - start if offsets else w) * inverse, computing)
    if how == _CUT:
        return np.float32(np.int32(min(max(quotient + shift, low), high))) - zero
    quotient = min(max(quotient, low - zero), high - zero)
    if how == _EVEN:
        return np.float32(np.float32(quotient + _MAGIC) - _MAGIC)
    magnitude = abs(quotient)
    whole = np.float32(np.int32(magnitude))
    nearest = whole + np.float32(np.int32(np.float32(2.0) * (magnitude - whole)))
    return -nearest if quotient < np.float32(0.0) else nearest


@njit(error_model="numpy", forceinline=True)
def _value(taken, scale, base, unit, offsets, dtype):
    """Return the value that the deployed model computes with in place of a weight."""
    scaled = taken * scale * unit
    return in_dtype(scaled + base if offsets else scaled, dtype)


@functools.cache
def _pair_kernel(
    how: int,
    in_weights_dtype: bool,
    from_float16: bool,
    offsets: bool,
    size: int,
    blocks: int,
    dtype_o: int,
    dtype_u: int,
) -> Any:
    """The loop for a way to round, pieces of so many weights that are so many blocks, and pair of types.

    They become constants in it, which makes it faster. The range of codes does not: there are many schemes. It closes
    over numbers alone: numba finds machine code that it kept by what a function closes over, and another function is
    another one in each process.
    """
    computing_o = dtype_o if in_weights_dtype else ROUND_TO_FLOAT32
    computing_u = dtype_u if in_weights_dtype else ROUND_TO_FLOAT32
    few_changed = int(FEW_CHANGED * size)
    pieces_per_chunk = WEIGHTS_PER_CHUNK // size
    length = size // blocks

    @compiled(nogil=True)
    def kernel(original, unlearned, of_o, of_u, first_chunk, last_chunk, sums, updates, ratios, transitions, constants):
        low, high, shift, unit = constants[0], constants[1], constants[2], constants[3]
        levels, counts_updates = np.int32(constants[4]), constants[5] > np.float32(0.0)
        counts_transitions = levels > 0
        rounded, update = np.empty(size, np.float32), np.empty(size, np.float32)
        update_bin, ratio_bin = np.empty(size, np.uint16), np.empty(size, np.uint16)
        # Each pair of codes has four counts, used in turn: most weights share few pairs; a count waits for the last.
        cell, cells = np.empty(size, np.uint16), np.zeros((4, transitions.shape[0]), np.int32)

        for chunk in range(first_chunk, last_chunk):
            identical, same_code = 0, 0
            dot, update_squared, rounded_squared, update_max = 0.0, 0.0, 0.0, 0.0
            for piece in range(chunk * pieces_per_chunk, min((chunk + 1) * pieces_per_chunk, original.shape[0])):
                largest_o, largest_u, changed = scan(original, unlearned, piece, size)
                if largest_o >= INFINITY_BITS or largest_u >= INFINITY_BITS:
                    for i in range(size):
                        nonfinite_o = np.int32(as_bits(original[piece, i]) & ABSOLUTE_BITS) >= INFINITY_BITS
                        nonfinite_u = np.int32(as_bits(unlearned[piece, i]) & ABSOLUTE_BITS) >= INFINITY_BITS
                        sums[chunk, NONFINITE_ORIGINAL] += nonfinite_o
                        sums[chunk, NONFINITE_UNLEARNED] += nonfinite_u
                    continue
                identical += size - changed
                alike, finite = True, True
                for block in range(piece * blocks, (piece + 1) * blocks):
                    for row in range(PARAMETERS):
                        alike &= of_o[row, block] == of_u[row, block]
                        finite &= np.isfinite(of_o[row, block]) and np.isfinite(of_u[row, block])
                # If a weight elsewhere in the row is not finite, or the range is too wide, no code is known.
                if not finite:
                    dot = np.nan
                    continue
                if changed == 0 and alike:
                    same_code += size
                    continue

                if (alike and changed <= few_changed) or max(largest_o, largest_u) >= HUGE_BITS:
                    for first in range(0, size, _STRIDE):
                        if alike and not _differ(original, unlearned, piece, first):
                            same_code += _STRIDE
                            continue
                        for i in range(first, first + _STRIDE):
                            unchanged = original[piece, i] == unlearned[piece, i]
                            if unchanged and alike:
                                same_code += 1
                                continue
                            block = piece * blocks + i // length
                            zero_o, zero_u = of_o[ZERO, block], of_u[ZERO, block]
                            o = np.int32(as_bits(original[piece, i])).view(np.float32)
                            u = np.int32(as_bits(unlearned[piece, i])).view(np.float32)
                            steps_o = _steps(
                                o,
                                of_o[INVERSE, block],
                                of_o[START, block],
                                zero_o,
                                low,
                                high,
                                shift,
                                how,
                                from_float16,
                                offsets,
                                computing_o,
                            )
                            steps_u = _steps(
                                u,
                                of_u[INVERSE, block],
                                of_u[START, block],
                                zero_u,
                                low,
                                high,
                                shift,
                                how,
                                from_float16,
                                offsets,
                                computing_u,
                            )
                            rounded_o = _value(steps_o, of_o[SCALE, block], of_o[BASE, block], unit, offsets, dtype_o)
                            rounded_u = _value(steps_u, of_u[SCALE, block], of_u[BASE, block], unit, offsets, dtype_u)
                            code_o, code_u = np.int32(steps_o + zero_o - low), np.int32(steps_u + zero_u - low)
                            r = np.float64(rounded_u) - np.float64(rounded_o)
                            d = np.float64(u) - np.float64(o)
                            dot += r * d
                            update_squared += d * d
                            rounded_squared += r * r
                            update_max = max(update_max, abs(d))
                            same_code += np.int64(code_o == code_u)
                            if not unchanged:
                                if counts_updates:
                                    updates[bin_of(abs(u - o))] += np.int32(1)
                                ratios[bin_of(abs(u - o) * of_o[PER_WIDTH, block])] += np.int32(1)
                            if counts_transitions and (not unchanged or code_o != code_u):
                                transitions[code_o * levels + code_u] += np.int32(1)
                    continue

                largest_update = np.uint32(0)
                same = np.int32(0)
                for part in range(blocks):
                    block = piece * blocks + part
                    inverse_o, inverse_u = of_o[INVERSE, block], of_u[INVERSE, block]
                    start_o, start_u = of_o[START, block], of_u[START, block]
                    zero_o, zero_u = of_o[ZERO, block], of_u[ZERO, block]
                    scale_o, scale_u = of_o[SCALE, block], of_u[SCALE, block]
                    base_o, base_u = of_o[BASE, block], of_u[BASE, block]
                    to_code_o, to_code_u = zero_o - low, zero_u - low
                    per_width = of_o[PER_WIDTH, block]
                    for i in range(part * length, (part + 1) * length):
                        o = np.int32(as_bits(original[piece, i])).view(np.float32)
                        u = np.int32(as_bits(unlearned[piece, i])).view(np.float32)
                        steps_o = _steps(
                            o, inverse_o, start_o, zero_o, low, high, shift, how, from_float16, offsets, computing_o
                        )
                        steps_u = _steps(
                            u, inverse_u, start_u, zero_u, low, high, shift, how, from_float16, offsets, computing_u
                        )
                        rounded_o = _value(steps_o, scale_o, base_o, unit, offsets, dtype_o)
                        rounded[i] = _value(steps_u, scale_u, base_u, unit, offsets, dtype_u) - rounded_o
                        code_o, code_u = np.int32(steps_o + to_code_o), np.int32(steps_u + to_code_u)
                        same = np.int32(same + np.int32(code_o == code_u))
                        d = u - o
                        update[i] = d
                        largest_update = max(largest_update, np.float32(abs(d)).view(np.uint32))
                        if counts_updates:
                            update_bin[i] = np.uint16(bin_of(abs(d)))
                        ratio_bin[i] = np.uint16(bin_of(abs(d) * per_width))
                        if counts_transitions:
                            moved = (code_o != code_u) | (original[piece, i] != unlearned[piece, i])
                            cell[i] = np.uint16(code_o * levels + code_u if moved else levels * levels)
                same_code += same
                rounded_power = power_of_two_scale(max(largest_o, largest_u))
                update_power = power_of_two_scale(np.int32(largest_update))
                for i in range(0, size, 4):
                    for j in range(4):
                        if counts_updates:
                            updates[update_bin[i + j]] += np.int32(1)
                        ratios[ratio_bin[i + j]] += np.int32(1)
                        if counts_transitions:
                            cells[j, cell[i + j]] += np.int32(1)
                piece_dot, piece_update, piece_rounded = inner_products(
                    rounded, update, rounded_power, update_power, size
                )
                rounded_unit, update_unit = 1.0 / np.float64(rounded_power), 1.0 / np.float64(update_power)
                dot += np.float64(piece_dot) * (rounded_unit * update_unit)
                update_squared += np.float64(piece_update) * (update_unit * update_unit)
                rounded_squared += np.float64(piece_rounded) * (rounded_unit * rounded_unit)
                update_max = max(update_max, np.float64(np.uint32(largest_update).view(np.float32)))
                # Take out the weights that did not change: they were counted in the first bins with the others.
                if counts_updates:
                    updates[0] -= size - changed
                ratios[0] -= size - changed
            sums[chunk, IDENTICAL] += identical
            sums[chunk, SAME_CODE] += same_code
            sums[chunk, DOT] += dot
            sums[chunk, UPDATE_SQUARED] += update_squared
            sums[chunk, ROUNDED_SQUARED] += rounded_squared
            sums[chunk, UPDATE_MAX] = max(sums[chunk, UPDATE_MAX], update_max)
        for j in range(4):
            for i in range(transitions.shape[0]):
                transitions[i] += cells[j, i]

    return kernel


@njit(error_model="numpy")
def _differ(original, unlearned, piece, first):
    """Return True if any of the _STRIDE weights from the first differ."""
    differing = np.int32(0)
    for i in range(first, first + _STRIDE):
        differing = np.int32(differing | np.int32(original[piece, i] != unlearned[piece, i]))
    return differing != 0


def kernel_for(
    scheme: AffineScheme,
    size: int,
    blocks: int,
    round_o: int,
    round_u: int,
    *,
    counts_transitions: bool,
    counts_updates: bool,
) -> Any:
    """The loop for a scheme.

    Args:
        scheme: with even levels.
        size: weights that are summed at a time, a piece: a multiple of 8.
        blocks: that a piece has; 1 also if it is a part of one.
        round_o, round_u: the dtypes of both sides, which values are rounded to.
        counts_transitions: whether pairs of codes are counted.
        counts_updates: whether magnitudes of updates are, which depend on no scheme.

    Returns:
        kernel(original, unlearned, of_o, of_u, first_chunk, last_chunk, sums, updates, ratios, transitions).
        original and unlearned are [pieces, size]; they, sums, updates and ratios are as in kernels.py; of_o and of_u
        are float32 [PARAMETERS, pieces * blocks]; transitions is int32 [levels * levels + 1], the last for weights
        that are equal in value and in code, or [1] if they are not counted. Chunks are of WEIGHTS_PER_CHUNK weights.
    """
    loop = _pair_kernel(
        _ROUNDINGS[scheme.rounding],
        scheme.in_weights_dtype,
        scheme.from_float16,
        scheme.offsets,
        size,
        blocks,
        round_o,
        round_u,
    )
    counted = scheme.levels if counts_transitions else 0
    constants = np.array(
        [scheme.lowest, scheme.highest, scheme.shift, scheme.unit, counted, counts_updates], np.float32
    )

    def kernel(*arguments: Any) -> None:
        loop(*arguments, constants)

    return kernel

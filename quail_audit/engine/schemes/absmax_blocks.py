# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Compile the loops that round blocks to 16 levels scaled by the block's absmax, on a CPU.

LLVM turns each loop over a block into vector instructions: see docs/benchmarks.md before changing one.
weights/table_kernel.py inlines these.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

LEVELS = 16
SMALLEST_ABSMAX = np.float32(1e-38)  # bitsandbytes divides by no less, so that a block of zeros stays finite
ABSOLUTE_BITS = np.int32(0x7FFFFFFF)  # a float32's bits without the sign; they sort as the magnitudes do


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile with njit, and keep the machine code for the next process if there is a folder for it."""

    def compile_it(function: Callable[..., Any]) -> Any:
        try:
            return njit(error_model="numpy", cache=True, **options)(function)
        except RuntimeError:  # numba found no folder it may write to
            return njit(error_model="numpy", **options)(function)

    return compile_it


@njit(error_model="numpy")
def pick(x, bounds, values):
    """values[i] for the bucket that x lies in: bounds[i - 1] < x <= bounds[i].

    A chain of selects rather than a search: it has no branch and no gather, so a loop around it becomes vector code.
    """
    picked = values[0]
    picked = values[1] if x > bounds[0] else picked
    picked = values[2] if x > bounds[1] else picked
    picked = values[3] if x > bounds[2] else picked
    picked = values[4] if x > bounds[3] else picked
    picked = values[5] if x > bounds[4] else picked
    picked = values[6] if x > bounds[5] else picked
    picked = values[7] if x > bounds[6] else picked
    picked = values[8] if x > bounds[7] else picked
    picked = values[9] if x > bounds[8] else picked
    picked = values[10] if x > bounds[9] else picked
    picked = values[11] if x > bounds[10] else picked
    picked = values[12] if x > bounds[11] else picked
    picked = values[13] if x > bounds[12] else picked
    picked = values[14] if x > bounds[13] else picked
    return values[15] if x > bounds[14] else picked


@compiled(nogil=True)
def quantize_blocks(weights, bounds, codes, out, absmax):
    """Round whole blocks: float32 [blocks, block size] -> codes uint8, the same shape, and absmax float32 [blocks].

    The code decision is bitsandbytes' own, operation by operation: w * (1 / max(absmax, 1e-38)), then the bounds.
    """
    for block in range(weights.shape[0]):
        largest = np.float32(0.0)
        for i in range(weights.shape[1]):
            largest = max(largest, abs(weights[block, i]))
        absmax[block] = largest
        inverse = np.float32(1.0) / max(largest, SMALLEST_ABSMAX)
        for i in range(weights.shape[1]):
            out[block, i] = pick(weights[block, i] * inverse, bounds, codes)


@compiled(nogil=True)
def dequantize_blocks(codes, levels_by_code, absmax, out):
    """codes uint8 [blocks, block size], absmax float32 [blocks] -> float32 weights, the same shape."""
    for block in range(codes.shape[0]):
        scale = absmax[block]
        for i in range(codes.shape[1]):
            out[block, i] = levels_by_code[codes[block, i]] * scale

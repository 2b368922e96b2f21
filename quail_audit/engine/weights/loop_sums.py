"""Sum over a pair of matrices in compiled loops, in pieces over threads."""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from quail_audit.engine.schemes.absmax_blocks import LEVELS
from quail_audit.engine.schemes.affine import AffineScheme, Extremes
from quail_audit.engine.schemes.bitsandbytes import FourBit
from quail_audit.engine.schemes.interface import Scheme
from quail_audit.engine.weights import affine_kernel, kernel_parts, table_kernel
from quail_audit.engine.weights.sums import Counts, PairSums, no_transitions
from quail_audit.engine.weights.tensor_sums import (
    MOST_LEVELS_OF_TRANSITIONS,
    number_codes,
    sums_by_tensor_operations,
    sums_of_rounded,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import torch

WEIGHTS_PER_RUN = 1 << 30  # of a kernel, whose counts are int32; a multiple of every block size


WEIGHTS_PER_PIECE = 1 << 22  # if a matrix has to be widened to float32 first; a multiple of every block size


PIECE = 128  # weights that the loop over even levels sums at a time: several blocks, or a part of one


SHORTEST_PIECE = 16  # of a row whose length PIECE does not divide; shorter ones are not worth a loop


WEIGHTS_PER_THREAD = 1 << 18  # fewer are not worth a second thread


T = TypeVar("T")


R = TypeVar("R")


Bits = npt.NDArray[np.int32] | npt.NDArray[np.uint16]


def has_loop(scheme: Scheme, weight: torch.Tensor) -> bool:
    """Tell whether there is a loop for such a scheme over such matrices."""
    if weight.device.type != "cpu":
        return False
    if isinstance(scheme, FourBit):
        return table_kernel.fits(scheme.grid)
    return isinstance(scheme, AffineScheme) and math.gcd(scheme.block_size or weight.shape[1], PIECE) >= SHORTEST_PIECE


def sums_over_table(
    original: torch.Tensor, unlearned: torch.Tensor, scheme: FourBit, threads: int, counts_updates: bool
) -> PairSums:
    """Run the loop of table_kernel.py over the whole blocks, and tensor operations over the rest."""
    size = scheme.grid.block_size
    flat_o, flat_u = original.reshape(-1), unlearned.reshape(-1)
    whole = flat_o.numel() // size * size
    scales_o, scales_u = _scales_to_use(flat_o, scheme), _scales_to_use(flat_u, scheme)
    sums = PairSums()
    kernel = table_kernel.kernel_for(
        scheme.grid, _rounding_of(original.dtype), _rounding_of(unlearned.dtype), counts_updates=counts_updates
    )
    for start, o, u in _pieces(flat_o[:whole], flat_u[:whole], size, WEIGHTS_PER_RUN):
        first, last = start // size, (start + o.numel()) // size
        per_block = scales_o[first:last], scales_u[first:last]
        ran = _run_loop(
            kernel, (_bits(o, size), _bits(u, size)), per_block, table_kernel.BLOCKS_PER_CHUNK, LEVELS**2, threads
        )
        moves = ran.transitions.sum(axis=0, dtype=np.int64).reshape(LEVELS, LEVELS)
        sums += _totals(ran, o.numel(), same_code=o.numel() - int(moves.sum() - moves.trace()), transitions=moves)
    if whole < flat_o.numel():
        sums += _sums_of_rest(flat_o[whole:], flat_u[whole:], scheme, scales_o[-1:], scales_u[-1:])
    return sums


def _scales_to_use(flat: torch.Tensor, scheme: FourBit) -> npt.NDArray[np.float32]:
    """Return the scales to dequantize with if they are not simply each block's absmax; else an empty array."""
    if not scheme.double_quantization:
        return np.empty(0, np.float32)
    return scheme.quantize(flat.reshape(1, -1)).scales.numpy()


def sums_over_even_levels(
    original: torch.Tensor,
    unlearned: torch.Tensor,
    scheme: AffineScheme,
    extremes: Sequence[Extremes],
    threads: int,
    counts_updates: bool,
) -> PairSums:
    """Run the loop of affine_kernel.py, with the parameters of blocks computed from their extremes."""
    block = scheme.block_size or original.shape[1]
    sides = zip((original, unlearned), extremes, strict=True)
    of_o, of_u = map_in_threads(
        lambda side: _block_parameters(_merge_extremes(side[1], side[0].numel() // block), side[0].dtype, scheme),
        sides,
        threads,
    )
    flat_o, flat_u = original.reshape(-1), unlearned.reshape(-1)
    whole = flat_o.numel()
    if block < PIECE:  # several blocks at a time, and the last few, that do not make a piece, one by one
        whole = whole // PIECE * PIECE
        last = whole // block
        rest = of_o[:, last:], of_u[:, last:]
        sums = _sums_of_pieces(flat_o[whole:], flat_u[whole:], scheme, rest, block, 1, threads, counts_updates)
        rounds, size, blocks = (of_o[:, :last], of_u[:, :last]), PIECE, PIECE // block
    else:
        sums = PairSums()
        size, blocks = math.gcd(block, PIECE), 1
        rounds = of_o.repeat(block // size, axis=1), of_u.repeat(block // size, axis=1)
    return sums + _sums_of_pieces(flat_o[:whole], flat_u[:whole], scheme, rounds, size, blocks, threads, counts_updates)


def _sums_of_pieces(
    original: torch.Tensor,
    unlearned: torch.Tensor,
    scheme: AffineScheme,
    rounds: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    size: int,
    blocks: int,
    threads: int,
    counts_updates: bool,
) -> PairSums:
    """Run the loop over flat tensors of whole pieces, each of `size` weights and `blocks` blocks."""
    counts = scheme.levels <= MOST_LEVELS_OF_TRANSITIONS
    cells = scheme.levels**2 + 1 if counts else 1
    kernel = affine_kernel.kernel_for(
        scheme,
        size,
        blocks,
        _rounding_of(original.dtype),
        _rounding_of(unlearned.dtype),
        counts_transitions=counts,
        counts_updates=counts_updates,
    )
    sums = PairSums()
    for start, o, u in _pieces(original, unlearned, size, WEIGHTS_PER_RUN):
        first, last = start // size * blocks, (start + o.numel()) // size * blocks
        per_block = rounds[0][:, first:last], rounds[1][:, first:last]
        pieces_per_chunk = affine_kernel.WEIGHTS_PER_CHUNK // size
        ran = _run_loop(kernel, (_bits(o, size), _bits(u, size)), per_block, pieces_per_chunk, cells, threads)
        moves = (
            ran.transitions.sum(axis=0, dtype=np.int64)[:-1].reshape(scheme.levels, scheme.levels) if counts else None
        )
        sums += _totals(ran, o.numel(), same_code=int(ran.sums[:, kernel_parts.SAME_CODE].sum()), transitions=moves)
    return sums


def extremes_of(weight: torch.Tensor, size: int) -> Extremes:
    """Return the extremes of each block of `size` weights, in float32."""
    import torch

    found = np.empty((3, weight.numel() // size), np.float32)
    flat = weight.reshape(-1)
    for start, piece, _ in _pieces(flat, flat, size, WEIGHTS_PER_RUN):
        first, last = start // size, (start + piece.numel()) // size
        kernel_parts.extremes(_bits(piece, size), *found[:, first:last])
    return Extremes(*torch.from_numpy(found))


def _merge_extremes(found: Extremes, blocks: int) -> Extremes:
    """Return the extremes of larger blocks from those of their parts."""
    import torch

    if found.low.numel() == blocks:
        return found
    merged = np.empty((3, blocks), np.float32)
    kernel_parts.merged_extremes(*(each.numpy() for each in found), *merged)
    return Extremes(*torch.from_numpy(merged))


def _block_parameters(found: Extremes, stored: torch.dtype, scheme: AffineScheme) -> npt.NDArray[np.float32]:
    """Return what rounds each block: [affine_kernel.PARAMETERS, blocks]."""
    import torch

    # Casting keeps the order, so these are the extremes of the weights as they are cast.
    parameters = scheme.parameters(Extremes(*(each.to(scheme.dtype_of_extremes(stored)) for each in found)))
    array: npt.NDArray[np.float32] = torch.stack([*parameters, 1 / parameters.width]).numpy()
    return array


def _pieces(
    original: torch.Tensor, unlearned: torch.Tensor, block: int, longest: int
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Cut flat tensors into pieces of whole blocks, each with its start.

    Pieces are as stored if a loop takes that dtype; else they are widened to float32, and short.
    """
    import torch

    as_stored = original.dtype == unlearned.dtype and original.dtype in (torch.float32, torch.bfloat16)
    step = max(1, (longest if as_stored else min(longest, WEIGHTS_PER_PIECE)) // block) * block
    for start in range(0, original.numel(), step):
        o, u = original[start : start + step], unlearned[start : start + step]
        if not as_stored:
            o, u = o.float(), u.float()  # exact, so that bitwise equality and every code stay what they are
        yield start, o, u


def _rounding_of(dtype: torch.dtype) -> int:
    import torch

    kinds = {
        torch.float32: kernel_parts.ROUND_TO_FLOAT32,
        torch.bfloat16: kernel_parts.ROUND_TO_BFLOAT16,
        torch.float16: kernel_parts.ROUND_TO_FLOAT16,
    }
    return kinds[dtype]


def _bits(flat: torch.Tensor, size: int) -> Bits:
    """Return the bits of a flat float32 or bfloat16 tensor, [blocks, size], without a copy."""
    import torch

    kind = torch.int32 if flat.dtype == torch.float32 else torch.uint16
    bits: Bits = flat.contiguous().view(kind).numpy()
    return bits.reshape(-1, size)


class _LoopResult(NamedTuple):
    """The results of a loop: its sums by chunk, and its counts by worker."""

    sums: npt.NDArray[np.float64]
    updates: npt.NDArray[np.int32]
    ratios: npt.NDArray[np.int32]
    transitions: npt.NDArray[np.int32]


def _run_loop(
    kernel: Any,
    bits: tuple[Bits, Bits],
    per_block: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    blocks_per_chunk: int,
    cells: int,
    threads: int,
) -> _LoopResult:
    """Run a loop over all chunks of two matrices of bits [blocks, size], on some threads."""
    chunks = -(-bits[0].shape[0] // blocks_per_chunk)
    workers = max(1, min(threads, chunks, bits[0].size // WEIGHTS_PER_THREAD))
    sums = np.zeros((chunks, kernel_parts.COLUMNS))
    counts = np.zeros((workers, 2, kernel_parts.BINS), np.int32)
    transitions = np.zeros((workers, cells), np.int32)
    edges = [chunks * worker // workers for worker in range(workers + 1)]

    def run(worker: int) -> None:
        first, last = edges[worker], edges[worker + 1]
        kernel(*bits, *per_block, first, last, sums, *counts[worker], transitions[worker])

    map_in_threads(run, range(workers), workers)
    return _LoopResult(sums, counts[:, 0], counts[:, 1], transitions)


def map_in_threads(function: Callable[[T], R], values: Iterable[T], threads: int) -> list[R]:
    """Apply a function in threads, and return its values in order. Loops and tensors release the interpreter's lock."""
    return list(map(function, values) if threads == 1 else _threads(threads).map(function, values))


@functools.cache
def _threads(number: int) -> ThreadPoolExecutor:
    """Return a pool that is kept: starting one for every matrix and scheme takes a tenth of the measuring time."""
    return ThreadPoolExecutor(number, thread_name_prefix="weights")


def _totals(ran: _LoopResult, weights: int, *, same_code: int, transitions: Counts | None) -> PairSums:
    """Add chunks in order, exactly rounded, so that the sums do not depend on the threads."""
    sums = ran.sums
    return PairSums(
        weights=weights,
        identical=int(sums[:, kernel_parts.IDENTICAL].sum()),
        same_code=same_code,
        dot=math.fsum(sums[:, kernel_parts.DOT]),
        update_squared=math.fsum(sums[:, kernel_parts.UPDATE_SQUARED]),
        rounded_squared=math.fsum(sums[:, kernel_parts.ROUNDED_SQUARED]),
        update_max=float(sums[:, kernel_parts.UPDATE_MAX].max(initial=0.0)),
        nonfinite_original=int(sums[:, kernel_parts.NONFINITE_ORIGINAL].sum()),
        nonfinite_unlearned=int(sums[:, kernel_parts.NONFINITE_UNLEARNED].sum()),
        updates=ran.updates.sum(axis=0, dtype=np.int64),
        ratios=ran.ratios.sum(axis=0, dtype=np.int64),
        transitions=no_transitions() if transitions is None else transitions,
    )


def _sums_of_rest(
    original: torch.Tensor,
    unlearned: torch.Tensor,
    scheme: FourBit,
    scales_o: npt.NDArray[np.float32],
    scales_u: npt.NDArray[np.float32],
) -> PairSums:
    """Sum over the last short block, which bitsandbytes rounds a little differently from the others."""
    import torch

    pair = original.reshape(1, -1), unlearned.reshape(1, -1)
    if not all(bool(side.isfinite().all()) for side in pair):
        return sums_by_tensor_operations(*pair, scheme)
    rounded = []
    for side, scales in zip(pair, (scales_o, scales_u), strict=True):
        quantized = scheme.quantize(side)
        if scales.size:
            quantized = replace(quantized, scales=torch.from_numpy(scales))
        rounded.append(number_codes(quantized, side, scheme))
    return sums_of_rounded(*pair, rounded[0], rounded[1], levels=scheme.levels)

"""What rounding makes of a layer's update: DESIGN section 2's statistics, from sums over a pair of matrices.

pair_sums reads each pair once; layer_statistics, layer_detail and summarize say what the sums mean. Not here: the loop
itself (kernels.py), reading weights (checkpoints), and what a layer's state means for a release (verdict.py).
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from quail_audit.engine.schemes.absmax_blocks import LEVELS
from quail_audit.engine.schemes.affine import AffineScheme, Extremes
from quail_audit.engine.schemes.bitsandbytes import FourBit
from quail_audit.engine.schemes.interface import Quantized, Rounded, Scheme
from quail_audit.engine.weights import affine_kernel as affine_kernels
from quail_audit.engine.weights import kernel_parts as block_sums
from quail_audit.engine.weights import table_kernel as kernels
from quail_audit.schema.figures import RATIO_EDGES, LayerDetail, LayerStatistics, SchemeSummary, State
from quail_audit.schema.policy import Limits, state_of_update

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import torch

WEIGHTS_PER_RUN = 1 << 30  # of the kernel, whose counts are int32; a multiple of every block size
WEIGHTS_PER_PIECE = 1 << 22  # of a matrix that has to be widened to float32 first; a multiple of every block size
PIECE = 128  # weights that the loop over even levels sums at a time: several blocks, or a part of one
SHORTEST_PIECE = 16  # of a row whose length PIECE does not divide; shorter ones are not worth a loop
MOST_LEVELS_OF_TRANSITIONS = 16  # of 256 levels there would be 65,536 counts in each layer's event
WEIGHTS_PER_THREAD = 1 << 18  # fewer are not worth a second thread

T = TypeVar("T")
R = TypeVar("R")
DEFAULT_LIMITS = Limits()
Counts = npt.NDArray[np.int64]
Bits = npt.NDArray[np.int32] | npt.NDArray[np.uint16]


def _no_counts() -> Counts:
    return np.zeros(block_sums.BINS, np.int64)


def _no_transitions() -> Counts:
    return np.zeros((1, 1), np.int64)  # which broadcasts: it adds to the transitions of any number of levels


@dataclass(frozen=True, eq=False)
class PairSums:
    """Sums over the weights of a pair of matrices under one scheme. They add up over matrices.

    Attributes:
        weights: how many there are.
        identical: how many are bitwise equal.
        same_code: how many get the same code.
        dot: <Q(w_u) - Q(w_o), w_u - w_o>.
        update_squared: |w_u - w_o|^2.
        rounded_squared: |Q(w_u) - Q(w_o)|^2.
        update_max: the largest abs(w_u - w_o).
        nonfinite_original, nonfinite_unlearned: weights that are NaN or infinite. Where there are any, the other
            sums leave out their blocks and mean nothing.
        updates: counts of abs(w_u - w_o) by bin, of the weights that changed.
        ratios: counts of abs(w_u - w_o) / bucket width by bin, of the weights that changed.
        transitions: [levels, levels], or [1, 1] where there is nothing to count or there are too many levels: how
            many weights went from the i-th bucket to the j-th, of those that are not bitwise equal or, as a scale
            moved, got another code all the same. Off the diagonal they add up to weights - same_code.
    """

    weights: int = 0
    identical: int = 0
    same_code: int = 0
    dot: float = 0.0
    update_squared: float = 0.0
    rounded_squared: float = 0.0
    update_max: float = 0.0
    nonfinite_original: int = 0
    nonfinite_unlearned: int = 0
    updates: Counts = field(default_factory=_no_counts, repr=False)
    ratios: Counts = field(default_factory=_no_counts, repr=False)
    transitions: Counts = field(default_factory=_no_transitions, repr=False)

    def __add__(self, other: PairSums) -> PairSums:
        return PairSums(
            weights=self.weights + other.weights,
            identical=self.identical + other.identical,
            same_code=self.same_code + other.same_code,
            dot=self.dot + other.dot,
            update_squared=self.update_squared + other.update_squared,
            rounded_squared=self.rounded_squared + other.rounded_squared,
            update_max=max(self.update_max, other.update_max),
            nonfinite_original=self.nonfinite_original + other.nonfinite_original,
            nonfinite_unlearned=self.nonfinite_unlearned + other.nonfinite_unlearned,
            updates=self.updates + other.updates,
            ratios=self.ratios + other.ratios,
            transitions=self.transitions + other.transitions,
        )

    @property
    def finite(self) -> bool:
        """Whether every weight is a finite number, and every dequantized one: a rounded scale may overflow."""
        sums = (self.dot, self.update_squared, self.rounded_squared)
        return not (self.nonfinite_original or self.nonfinite_unlearned) and all(map(math.isfinite, sums))

    @property
    def survival(self) -> float | None:
        """s; None where nothing changed."""
        return self.dot / self.update_squared if self.update_squared > 0 else None

    @property
    def noise(self) -> float | None:
        """|Q(w_u) - Q(w_o) - s (w_u - w_o)| / |w_u - w_o|, by Pythagoras; None where nothing changed."""
        survival = self.survival
        if survival is None:
            return None
        return math.sqrt(max(0.0, self.rounded_squared / self.update_squared - survival * survival))


class MatrixPair:
    """A pair of matrices that is summed under one scheme after another: what schemes share is worked out once.

    That is what depends on no scheme, counted under the first that can be, and the extremes of blocks.

    Args:
        original, unlearned: [rows, columns], float32, float16 or bfloat16, on one device; the dtypes may differ.
        schemes: under which they will be summed.
        threads: to use on a CPU. The sums do not depend on it.

    Raises:
        ValueError: the shapes differ.
    """

    def __init__(
        self, original: torch.Tensor, unlearned: torch.Tensor, schemes: Sequence[Scheme], *, threads: int = 1
    ) -> None:
        if original.shape != unlearned.shape:
            raise ValueError(f"shapes differ: {tuple(original.shape)} and {tuple(unlearned.shape)}")
        self._sides = original, unlearned
        self._threads = threads
        self._shared: PairSums | None = None
        blocks = [
            scheme.block_size or original.shape[1]
            for scheme in schemes
            if isinstance(scheme, AffineScheme) and _has_loop(scheme, original)
        ]
        size = math.gcd(*blocks)
        self._extremes = _of_each(lambda side: _extremes(side, size), self._sides, threads) if blocks else []

    def sums_under(self, scheme: Scheme) -> PairSums:
        """What the statistics need.

        Args:
            scheme: one of those given; not one that leaves such matrices alone (Scheme.why_not).
        """
        sums = self._sums(scheme)
        if self._shared is None:
            # Under a scheme whose scales overflow the weights themselves were not counted either.
            self._shared = sums if sums.finite else None
            return sums
        return replace(
            sums,
            identical=self._shared.identical,
            update_squared=self._shared.update_squared,
            update_max=self._shared.update_max,
            nonfinite_original=self._shared.nonfinite_original,
            nonfinite_unlearned=self._shared.nonfinite_unlearned,
            updates=self._shared.updates,
        )

    def _sums(self, scheme: Scheme) -> PairSums:
        if not _has_loop(scheme, self._sides[0]):
            return sums_by_tensor_operations(*self._sides, scheme)
        counts_updates = self._shared is None
        if isinstance(scheme, AffineScheme):
            return _sums_over_even_levels(*self._sides, scheme, self._extremes, self._threads, counts_updates)
        assert isinstance(scheme, FourBit)  # noqa: S101 - _has_loop() saw to it
        return _sums_over_table(*self._sides, scheme, self._threads, counts_updates)


def pair_sums(original: torch.Tensor, unlearned: torch.Tensor, scheme: Scheme, *, threads: int = 1) -> PairSums:
    """Read a pair of matrices once and sum what the statistics need under one scheme; see MatrixPair."""
    return MatrixPair(original, unlearned, [scheme], threads=threads).sums_under(scheme)


def _has_loop(scheme: Scheme, weight: torch.Tensor) -> bool:
    """Whether there is a loop for such a scheme over such matrices."""
    if weight.device.type != "cpu":
        return False
    if isinstance(scheme, FourBit):
        return kernels.fits(scheme.grid)
    return isinstance(scheme, AffineScheme) and math.gcd(scheme.block_size or weight.shape[1], PIECE) >= SHORTEST_PIECE


def _sums_over_table(
    original: torch.Tensor, unlearned: torch.Tensor, scheme: FourBit, threads: int, counts_updates: bool
) -> PairSums:
    """The loop of kernels.py over the whole blocks, and what is left in tensor operations."""
    size = scheme.grid.block_size
    flat_o, flat_u = original.reshape(-1), unlearned.reshape(-1)
    whole = flat_o.numel() // size * size
    scales_o, scales_u = _given_scales(flat_o, scheme), _given_scales(flat_u, scheme)
    sums = PairSums()
    kernel = kernels.kernel_for(
        scheme.grid, _rounding_of(original.dtype), _rounding_of(unlearned.dtype), counts_updates=counts_updates
    )
    for start, o, u in _pieces(flat_o[:whole], flat_u[:whole], size, WEIGHTS_PER_RUN):
        first, last = start // size, (start + o.numel()) // size
        per_block = scales_o[first:last], scales_u[first:last]
        ran = _run(kernel, (_bits(o, size), _bits(u, size)), per_block, kernels.BLOCKS_PER_CHUNK, LEVELS**2, threads)
        moves = ran.transitions.sum(axis=0, dtype=np.int64).reshape(LEVELS, LEVELS)
        sums += _totals(ran, o.numel(), same_code=o.numel() - int(moves.sum() - moves.trace()), transitions=moves)
    if whole < flat_o.numel():
        sums += _sums_of_rest(flat_o[whole:], flat_u[whole:], scheme, scales_o[-1:], scales_u[-1:])
    return sums


def _given_scales(flat: torch.Tensor, scheme: FourBit) -> npt.NDArray[np.float32]:
    """The scales to dequantize with, where the scheme's are not simply each block's absmax; else empty."""
    if not scheme.double_quantization:
        return np.empty(0, np.float32)
    return scheme.quantize(flat.reshape(1, -1)).scales.numpy()


def _sums_over_even_levels(
    original: torch.Tensor,
    unlearned: torch.Tensor,
    scheme: AffineScheme,
    extremes: Sequence[Extremes],
    threads: int,
    counts_updates: bool,
) -> PairSums:
    """The loop of affine_kernels.py; what rounds the blocks is worked out of their extremes just before."""
    block = scheme.block_size or original.shape[1]
    sides = zip((original, unlearned), extremes, strict=True)
    of_o, of_u = _of_each(
        lambda side: _rounds(_by_block(side[1], side[0].numel() // block), side[0].dtype, scheme), sides, threads
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
    """The loop over flat tensors of whole pieces of so many weights that are so many blocks."""
    counts = scheme.levels <= MOST_LEVELS_OF_TRANSITIONS
    cells = scheme.levels**2 + 1 if counts else 1
    kernel = affine_kernels.kernel_for(
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
        pieces_per_chunk = affine_kernels.WEIGHTS_PER_CHUNK // size
        ran = _run(kernel, (_bits(o, size), _bits(u, size)), per_block, pieces_per_chunk, cells, threads)
        moves = (
            ran.transitions.sum(axis=0, dtype=np.int64)[:-1].reshape(scheme.levels, scheme.levels) if counts else None
        )
        sums += _totals(ran, o.numel(), same_code=int(ran.sums[:, block_sums.SAME_CODE].sum()), transitions=moves)
    return sums


def _extremes(weight: torch.Tensor, size: int) -> Extremes:
    """What the weights of each block of so many lie between, in float32."""
    import torch

    found = np.empty((3, weight.numel() // size), np.float32)
    flat = weight.reshape(-1)
    for start, piece, _ in _pieces(flat, flat, size, WEIGHTS_PER_RUN):
        first, last = start // size, (start + piece.numel()) // size
        block_sums.extremes(_bits(piece, size), *found[:, first:last])
    return Extremes(*torch.from_numpy(found))


def _by_block(found: Extremes, blocks: int) -> Extremes:
    """The extremes of larger blocks, of those of their parts."""
    import torch

    if found.low.numel() == blocks:
        return found
    merged = np.empty((3, blocks), np.float32)
    block_sums.merged_extremes(*(each.numpy() for each in found), *merged)
    return Extremes(*torch.from_numpy(merged))


def _rounds(found: Extremes, stored: torch.dtype, scheme: AffineScheme) -> npt.NDArray[np.float32]:
    """What rounds each block: [affine_kernels.PARAMETERS, blocks]."""
    import torch

    # Casting keeps the order, so these are the extremes of the weights as they are cast.
    parameters = scheme.parameters(Extremes(*(each.to(scheme.dtype_of_extremes(stored)) for each in found)))
    array: npt.NDArray[np.float32] = torch.stack([*parameters, 1 / parameters.width]).numpy()
    return array


def _pieces(
    original: torch.Tensor, unlearned: torch.Tensor, block: int, longest: int
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Flat tensors by whole blocks, and where each piece begins: as they are stored where a loop takes them, else
    widened, and then in short pieces."""
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
        torch.float32: block_sums.ROUND_TO_FLOAT32,
        torch.bfloat16: block_sums.ROUND_TO_BFLOAT16,
        torch.float16: block_sums.ROUND_TO_FLOAT16,
    }
    return kinds[dtype]


def _bits(flat: torch.Tensor, size: int) -> Bits:
    """A flat float32 or bfloat16 tensor as its bits, [blocks, size], without a copy."""
    import torch

    kind = torch.int32 if flat.dtype == torch.float32 else torch.uint16
    bits: Bits = flat.contiguous().view(kind).numpy()
    return bits.reshape(-1, size)


class _Ran(NamedTuple):
    """What a loop left: its sums by chunk, and its counts by worker."""

    sums: npt.NDArray[np.float64]
    updates: npt.NDArray[np.int32]
    ratios: npt.NDArray[np.int32]
    transitions: npt.NDArray[np.int32]


def _run(
    kernel: Any,
    bits: tuple[Bits, Bits],
    per_block: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    blocks_per_chunk: int,
    cells: int,
    threads: int,
) -> _Ran:
    """Run a loop over all chunks of two matrices of bits [blocks, size], on some threads."""
    chunks = -(-bits[0].shape[0] // blocks_per_chunk)
    workers = max(1, min(threads, chunks, bits[0].size // WEIGHTS_PER_THREAD))
    sums = np.zeros((chunks, block_sums.COLUMNS))
    counts = np.zeros((workers, 2, block_sums.BINS), np.int32)
    transitions = np.zeros((workers, cells), np.int32)
    edges = [chunks * worker // workers for worker in range(workers + 1)]

    def run(worker: int) -> None:
        first, last = edges[worker], edges[worker + 1]
        kernel(*bits, *per_block, first, last, sums, *counts[worker], transitions[worker])

    _of_each(run, range(workers), workers)
    return _Ran(sums, counts[:, 0], counts[:, 1], transitions)


def _of_each(function: Callable[[T], R], values: Iterable[T], threads: int) -> list[R]:
    """A function's value for each, in order; side by side, since loops and tensors let go of the interpreter's lock."""
    return list(map(function, values) if threads == 1 else _threads(threads).map(function, values))


@functools.cache
def _threads(number: int) -> ThreadPoolExecutor:
    """Kept, as starting two for every matrix and scheme takes a tenth of the time of measuring."""
    return ThreadPoolExecutor(number, thread_name_prefix="weights")


def _totals(ran: _Ran, weights: int, *, same_code: int, transitions: Counts | None) -> PairSums:
    """Chunks are added in order, exactly rounded: the same sums whatever the threads."""
    sums = ran.sums
    return PairSums(
        weights=weights,
        identical=int(sums[:, block_sums.IDENTICAL].sum()),
        same_code=same_code,
        dot=math.fsum(sums[:, block_sums.DOT]),
        update_squared=math.fsum(sums[:, block_sums.UPDATE_SQUARED]),
        rounded_squared=math.fsum(sums[:, block_sums.ROUNDED_SQUARED]),
        update_max=float(sums[:, block_sums.UPDATE_MAX].max(initial=0.0)),
        nonfinite_original=int(sums[:, block_sums.NONFINITE_ORIGINAL].sum()),
        nonfinite_unlearned=int(sums[:, block_sums.NONFINITE_UNLEARNED].sum()),
        updates=ran.updates.sum(axis=0, dtype=np.int64),
        ratios=ran.ratios.sum(axis=0, dtype=np.int64),
        transitions=_no_transitions() if transitions is None else transitions,
    )


def _sums_of_rest(
    original: torch.Tensor,
    unlearned: torch.Tensor,
    scheme: FourBit,
    scales_o: npt.NDArray[np.float32],
    scales_u: npt.NDArray[np.float32],
) -> PairSums:
    """The last short block, which bitsandbytes rounds a little differently from the others."""
    import torch

    pair = original.reshape(1, -1), unlearned.reshape(1, -1)
    if not all(bool(side.isfinite().all()) for side in pair):
        return sums_by_tensor_operations(*pair, scheme)
    rounded = []
    for side, scales in zip(pair, (scales_o, scales_u), strict=True):
        quantized = scheme.quantize(side)
        if scales.size:
            quantized = replace(quantized, scales=torch.from_numpy(scales))
        rounded.append(_numbered(quantized, side, scheme))
    return sums_of_rounded(*pair, rounded[0], rounded[1], levels=scheme.levels)


def sums_by_tensor_operations(original: torch.Tensor, unlearned: torch.Tensor, scheme: Scheme) -> PairSums:
    """The same sums in plain torch operations, on any device, with the scheme's own quantizer.

    Several passes and several copies of the matrices: for devices whose memory is fast, and for short ends.

    Args:
        original, unlearned, scheme: as in pair_sums.
    """
    nonfinite_o, nonfinite_u = int((~original.isfinite()).sum()), int((~unlearned.isfinite()).sum())
    if nonfinite_o or nonfinite_u:
        return PairSums(weights=original.numel(), nonfinite_original=nonfinite_o, nonfinite_unlearned=nonfinite_u)
    o, u = (_numbered(scheme.quantize(side), side, scheme) for side in (original, unlearned))
    return sums_of_rounded(original, unlearned, o, u, levels=scheme.levels)


def _numbered(quantized: Quantized, weight: torch.Tensor, scheme: Scheme) -> Rounded:
    """A matrix as it is deployed, its codes in the order of the levels where the scheme's own are in another."""
    import torch

    codes = quantized.codes
    if isinstance(scheme, FourBit):
        number_of = np.zeros(LEVELS, np.uint8)
        number_of[scheme.grid.codes] = np.arange(LEVELS)
        codes = torch.from_numpy(number_of).to(codes.device)[codes.int()]
    return Rounded(codes, scheme.dequantize(quantized), scheme.bucket_widths(weight, quantized))


def sums_of_rounded(
    original: torch.Tensor, unlearned: torch.Tensor, rounded_o: Rounded, rounded_u: Rounded, *, levels: int
) -> PairSums:
    """The sums over a pair of finite matrices that have been rounded already, by whatever means.

    Args:
        original, unlearned: [rows, columns], before rounding.
        rounded_o, rounded_u: the same as they are deployed. Without widths there are no ratios.
        levels: how many codes there are. Transitions are counted for few only.
    """
    import torch

    precise = torch.float32 if original.device.type == "mps" else torch.float64  # mps has no float64
    codes_o, codes_u = rounded_o.codes.reshape(-1), rounded_u.codes.reshape(-1)
    o, u = original.to(precise).reshape(-1), unlearned.to(precise).reshape(-1)
    update = u - o
    rounded = rounded_u.values.to(precise).reshape(-1) - rounded_o.values.to(precise).reshape(-1)
    changed = original.float().view(torch.int32).reshape(-1) != unlearned.float().view(torch.int32).reshape(-1)
    magnitude = update.abs()[changed].float()
    ratios = _no_counts()
    if rounded_o.widths is not None:
        ratios = count_by_bin((magnitude / rounded_o.widths.reshape(-1)[changed]).float())
    transitions = _no_transitions()
    if levels <= MOST_LEVELS_OF_TRANSITIONS:
        counted = changed | (codes_o != codes_u)
        cells = codes_o[counted].long() * levels + codes_u[counted].long()
        transitions = torch.bincount(cells, minlength=levels * levels).reshape(levels, levels).cpu().numpy()
    return PairSums(
        weights=original.numel(),
        identical=int((~changed).sum()),
        same_code=int((codes_o == codes_u).sum()),
        dot=float(rounded @ update),
        update_squared=float(update @ update),
        rounded_squared=float(rounded @ rounded),
        update_max=float(magnitude.max()) if magnitude.numel() else 0.0,
        updates=count_by_bin(magnitude),
        ratios=ratios,
        transitions=transitions,
    )


def count_by_bin(magnitudes: torch.Tensor) -> Counts:
    """Non-negative float32 magnitudes by bin."""
    import torch

    bins = (magnitudes.contiguous().view(torch.int32) >> block_sums.BIN_SHIFT).cpu().numpy()
    return np.bincount(bins, minlength=block_sums.BINS).astype(np.int64)


def median_of_counts(counts: Counts, zeros: int = 0) -> float | None:
    """The lower median of the counted magnitudes and of as many zeros; None where there are neither.

    Within 0.2 % of the exact one: a bin's middle stands for what is in it.
    """
    total = int(counts.sum()) + zeros
    if total == 0:
        return None
    rank = (total - 1) // 2
    if rank < zeros:
        return 0.0
    found = int(np.searchsorted(np.cumsum(counts), rank - zeros, side="right"))
    found = min(found, block_sums.LAST_BIN)
    if found == 0:
        return 0.0  # the first bin: zero itself and magnitudes under 5e-41
    middle = np.array([(found << block_sums.BIN_SHIFT) + (1 << (block_sums.BIN_SHIFT - 1))], np.int32)
    return float(middle.view(np.float32)[0])


def layer_statistics(
    sums: PairSums, *, name: str, block: int | None, role: str, limits: Limits = DEFAULT_LIMITS
) -> LayerStatistics:
    """What a layer's sums say, in the words of DESIGN section 2."""
    if not sums.finite:
        return LayerStatistics(
            name=name,
            block=block,
            role=role,
            weights=sums.weights,
            identical=None,
            overlap=None,
            survival=None,
            noise=None,
            update_median=None,
            update_median_changed=None,
            update_max=None,
            update_to_bucket=None,
            state=None,
            at_risk=False,
            nonfinite_original=sums.nonfinite_original,
            nonfinite_unlearned=sums.nonfinite_unlearned,
        )
    state = _state(sums, limits)
    return LayerStatistics(
        name=name,
        block=block,
        role=role,
        weights=sums.weights,
        identical=sums.identical / sums.weights,
        overlap=sums.same_code / sums.weights,
        survival=sums.survival,
        noise=sums.noise,
        update_median=median_of_counts(sums.updates, zeros=sums.identical),
        update_median_changed=median_of_counts(sums.updates),
        update_max=sums.update_max,
        update_to_bucket=median_of_counts(sums.ratios),
        state=state,
        at_risk=state in ("erased", "drowned"),
    )


def layer_detail(sums: PairSums) -> LayerDetail | None:
    """What a layer's sums say beyond its statistics; None where there is a weight that is no finite number."""
    if not sums.finite:
        return None
    # Every edge is the smallest magnitude of its bin (a test holds them to that), so no bin is split: a ratio equal to
    # an edge is counted in the bin that starts there.
    starts = np.array((0.0, *RATIO_EDGES), np.float32).view(np.int32) >> block_sums.BIN_SHIFT
    return LayerDetail(
        ratio_counts=tuple(np.add.reduceat(sums.ratios, starts).tolist()),
        transitions=tuple(sums.transitions.reshape(-1).tolist()) if sums.transitions.size > 1 else (),
    )


def _state(sums: PairSums, limits: Limits) -> State:
    survival = sums.survival
    return "untouched" if survival is None else state_of_update(survival, sums.same_code / sums.weights, limits)


def summarize(total: PairSums, layers: Sequence[LayerStatistics]) -> SchemeSummary:
    """All layers of a scheme taken together.

    Args:
        total: the sum of the layers' sums.
        layers: their statistics.
    """
    states = [layer.state for layer in layers]
    finite = total.finite and total.weights > 0
    return SchemeSummary(
        weights=total.weights,
        identical=total.identical / total.weights if finite else None,
        overlap=total.same_code / total.weights if finite else None,
        survival=total.survival if finite else None,
        noise=total.noise if finite else None,
        layers_at_risk=sum(layer.at_risk for layer in layers),
        layers_untouched=states.count("untouched"),
        layers_carried=states.count("carried"),
        layers_drowned=states.count("drowned"),
        layers_erased=states.count("erased"),
    )

"""What rounding makes of a layer's update: DESIGN section 2's statistics, from sums over a pair of matrices.

pair_sums reads each pair once; layer_statistics, layer_detail and summarize say what the sums mean. Not here: the loop
itself (kernels.py), reading weights (checkpoints), and what a layer's state means for a release (verdict.py).
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from quail_audit.events import RATIO_EDGES, LayerDetail, LayerStatistics, SchemeSummary, State
from quail_audit.schemes.blocks import LEVELS
from quail_audit.schemes.interface import Grid, Scheme
from quail_audit.weights import kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

WEIGHTS_PER_RUN = 1 << 30  # of the kernel, whose counts are int32; a multiple of every block size
WEIGHTS_PER_PIECE = 1 << 22  # of a matrix that has to be widened to float32 first; a multiple of every block size
WEIGHTS_PER_THREAD = 1 << 18  # fewer are not worth a second thread

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RiskLimits:
    """When a layer that changed is at risk: overlap at least, or survival less than."""

    overlap: float = 0.999
    survival: float = 0.5


def _no_counts() -> Counts:
    return np.zeros(kernels.BINS, np.int64)


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
        transitions: [levels, levels], or [1, 1] where there is nothing to count: how many weights went from the i-th
            bucket to the j-th, of those that are not bitwise equal or, as a scale moved, got another code all the
            same. Off the diagonal they add up to weights - same_code.
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


def pair_sums(original: torch.Tensor, unlearned: torch.Tensor, scheme: Scheme, *, threads: int = 1) -> PairSums:
    """Read a pair of matrices once and sum what the statistics need.

    Args:
        original, unlearned: [rows, columns], float32, float16 or bfloat16, on one device; the dtypes may differ.
        scheme: how they are rounded, each with its own scales.
        threads: to use on a CPU. The result does not depend on it.

    Raises:
        ValueError: the shapes differ.
    """
    if original.shape != unlearned.shape:
        raise ValueError(f"shapes differ: {tuple(original.shape)} and {tuple(unlearned.shape)}")
    if original.device.type != "cpu" or not kernels.fits(scheme.grid):
        return sums_by_tensor_operations(original, unlearned, scheme)
    size = scheme.grid.block_size
    flat_o, flat_u = original.reshape(-1), unlearned.reshape(-1)
    whole = flat_o.numel() // size * size
    scales_o, scales_u = _given_scales(flat_o, scheme), _given_scales(flat_u, scheme)
    sums = _sums_of_whole_blocks(flat_o[:whole], flat_u[:whole], scheme.grid, scales_o, scales_u, threads)
    if whole < flat_o.numel():
        sums += _sums_of_rest(flat_o[whole:], flat_u[whole:], scheme, scales_o[-1:], scales_u[-1:])
    return sums


def _given_scales(flat: torch.Tensor, scheme: Scheme) -> npt.NDArray[np.float32]:
    """The scales to dequantize with, where the scheme's are not simply each block's absmax; else empty."""
    import torch

    probe = torch.ones(1)
    if scheme.block_scales(probe) is probe:
        return np.empty(0, np.float32)
    return scheme.quantize(flat.reshape(1, -1)).absmax.numpy()


def _sums_of_whole_blocks(
    original: torch.Tensor,
    unlearned: torch.Tensor,
    grid: Grid,
    scales_o: npt.NDArray[np.float32],
    scales_u: npt.NDArray[np.float32],
    threads: int,
) -> PairSums:
    """The kernel over flat tensors of whole blocks: as they are stored where it can, else widened, piece by piece."""
    import torch

    rounding = _rounding_of(original.dtype), _rounding_of(unlearned.dtype)
    as_stored = original.dtype == unlearned.dtype and original.dtype in (torch.float32, torch.bfloat16)
    step = WEIGHTS_PER_RUN if as_stored else WEIGHTS_PER_PIECE
    sums = PairSums()
    for start in range(0, original.numel(), step):
        o, u = original[start : start + step], unlearned[start : start + step]
        if not as_stored:
            o, u = o.float(), u.float()  # exact, so that bitwise equality and every code stay what they are
        first, last = start // grid.block_size, (start + o.numel()) // grid.block_size
        pieces = scales_o[first:last], scales_u[first:last]
        sums += _run_kernel(_bits(o, grid), _bits(u, grid), grid, pieces, rounding, threads)
    return sums


def _rounding_of(dtype: torch.dtype) -> int:
    import torch

    kinds = {
        torch.float32: kernels.ROUND_TO_FLOAT32,
        torch.bfloat16: kernels.ROUND_TO_BFLOAT16,
        torch.float16: kernels.ROUND_TO_FLOAT16,
    }
    return kinds[dtype]


def _bits(flat: torch.Tensor, grid: Grid) -> npt.NDArray[np.int32] | npt.NDArray[np.uint16]:
    """A flat float32 or bfloat16 tensor as its bits, [blocks, block size], without a copy."""
    import torch

    kind = torch.int32 if flat.dtype == torch.float32 else torch.uint16
    bits: npt.NDArray[np.int32] | npt.NDArray[np.uint16] = flat.contiguous().view(kind).numpy()
    return bits.reshape(-1, grid.block_size)


def _run_kernel(
    original: npt.NDArray[np.int32] | npt.NDArray[np.uint16],
    unlearned: npt.NDArray[np.int32] | npt.NDArray[np.uint16],
    grid: Grid,
    scales: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    rounding: tuple[int, int],
    threads: int,
) -> PairSums:
    kernel = kernels.kernel_for(grid, *rounding)
    chunks = -(-original.shape[0] // kernels.BLOCKS_PER_CHUNK)
    workers = max(1, min(threads, chunks, original.size // WEIGHTS_PER_THREAD))
    sums = np.zeros((chunks, kernels.COLUMNS))
    counts = np.zeros((workers, 2, kernels.BINS), np.int32)
    transitions = np.zeros((workers, LEVELS * LEVELS), np.int32)
    edges = [chunks * worker // workers for worker in range(workers + 1)]

    def run(worker: int) -> None:
        first, last = edges[worker], edges[worker + 1]
        kernel(original, unlearned, *scales, first, last, sums, *counts[worker], transitions[worker])

    if workers == 1:
        run(0)
    else:
        with ThreadPoolExecutor(workers) as pool:  # the kernel lets go of the interpreter's lock
            list(pool.map(run, range(workers)))
    moves = transitions.sum(axis=0, dtype=np.int64).reshape(LEVELS, LEVELS)
    # Chunks are added in order, exactly rounded: the same sums whatever the threads.
    return PairSums(
        weights=original.size,
        identical=int(sums[:, kernels.IDENTICAL].sum()),
        same_code=original.size - int(moves.sum() - moves.trace()),
        dot=math.fsum(sums[:, kernels.DOT]),
        update_squared=math.fsum(sums[:, kernels.UPDATE_SQUARED]),
        rounded_squared=math.fsum(sums[:, kernels.ROUNDED_SQUARED]),
        update_max=float(sums[:, kernels.UPDATE_MAX].max(initial=0.0)),
        nonfinite_original=int(sums[:, kernels.NONFINITE_ORIGINAL].sum()),
        nonfinite_unlearned=int(sums[:, kernels.NONFINITE_UNLEARNED].sum()),
        updates=counts[:, 0].sum(axis=0, dtype=np.int64),
        ratios=counts[:, 1].sum(axis=0, dtype=np.int64),
        transitions=moves,
    )


def _sums_of_rest(
    original: torch.Tensor,
    unlearned: torch.Tensor,
    scheme: Scheme,
    scales_o: npt.NDArray[np.float32],
    scales_u: npt.NDArray[np.float32],
) -> PairSums:
    """The last short block, which bitsandbytes rounds a little differently from the others."""
    import torch

    given = (torch.from_numpy(scales_o), torch.from_numpy(scales_u)) if scales_o.size else None
    return sums_by_tensor_operations(original.reshape(1, -1), unlearned.reshape(1, -1), scheme, given_scales=given)


def sums_by_tensor_operations(
    original: torch.Tensor,
    unlearned: torch.Tensor,
    scheme: Scheme,
    *,
    given_scales: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> PairSums:
    """The same sums in plain torch operations, on any device, with the scheme's own quantizer.

    Several passes and several copies of the matrices: for devices whose memory is fast, and for short ends.

    Args:
        original, unlearned: as in pair_sums.
        scheme: as in pair_sums.
        given_scales: the scales to dequantize with, of a part of a matrix whose scales depend on the whole.
    """
    import torch

    nonfinite_o, nonfinite_u = int((~original.isfinite()).sum()), int((~unlearned.isfinite()).sum())
    if nonfinite_o or nonfinite_u:
        return PairSums(weights=original.numel(), nonfinite_original=nonfinite_o, nonfinite_unlearned=nonfinite_u)
    quantized = [scheme.quantize(original), scheme.quantize(unlearned)]
    codes_o, codes_u = (side.codes.reshape(-1) for side in quantized)
    if given_scales is not None:
        quantized = [
            type(side)(codes=side.codes, absmax=scales, dtype=side.dtype)
            for side, scales in zip(quantized, given_scales, strict=True)
        ]
    precise = torch.float32 if original.device.type == "mps" else torch.float64  # mps has no float64
    o, u = original.to(precise).reshape(-1), unlearned.to(precise).reshape(-1)
    update = u - o
    rounded_o, rounded_u = (scheme.dequantize(side).to(precise).reshape(-1) for side in quantized)
    rounded = rounded_u - rounded_o
    changed = original.float().view(torch.int32).reshape(-1) != unlearned.float().view(torch.int32).reshape(-1)
    magnitude = update.abs()[changed].float()
    ratio = (magnitude / _bucket_widths(original, codes_o, scheme.grid)[changed]).float()
    return PairSums(
        weights=original.numel(),
        identical=int((~changed).sum()),
        same_code=int((codes_o == codes_u).sum()),
        dot=float(rounded @ update),
        update_squared=float(update @ update),
        rounded_squared=float(rounded @ rounded),
        update_max=float(magnitude.max()) if magnitude.numel() else 0.0,
        updates=_count(magnitude),
        ratios=_count(ratio),
        transitions=_count_transitions(codes_o, codes_u, changed | (codes_o != codes_u), scheme.grid),
    )


def _by_code(values: npt.NDArray[Any], codes: torch.Tensor, grid: Grid) -> torch.Tensor:
    """What each code stands for, of values [levels] in the order of the levels: [weights]."""
    import torch

    of_code = np.zeros(int(grid.codes.max()) + 1, values.dtype)
    of_code[grid.codes] = values
    return torch.from_numpy(of_code).to(codes.device)[codes.int()]


def _count_transitions(codes_o: torch.Tensor, codes_u: torch.Tensor, counted: torch.Tensor, grid: Grid) -> Counts:
    """PairSums' transitions: [levels, levels] from codes and a mask [weights]."""
    import torch

    levels = len(grid.levels)
    number_o, number_u = (_by_code(np.arange(levels), codes[counted], grid) for codes in (codes_o, codes_u))
    counts = torch.bincount(number_o * levels + number_u, minlength=levels * levels)
    return counts.reshape(levels, levels).cpu().numpy()


def _bucket_widths(weight: torch.Tensor, codes: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The width of each weight's bucket in units of the weights: float32 [weights]."""
    import torch

    flat = weight.float().reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % grid.block_size)).reshape(-1, grid.block_size)
    absmax = padded.abs().amax(dim=1).clamp(min=1e-38).repeat_interleave(grid.block_size)[: flat.numel()]
    return _by_code(kernels.bucket_widths(grid).astype(np.float32), codes, grid) * absmax


def _count(magnitudes: torch.Tensor) -> Counts:
    """Non-negative float32 magnitudes by bin."""
    import torch

    bins = (magnitudes.contiguous().view(torch.int32) >> kernels.BIN_SHIFT).cpu().numpy()
    return np.bincount(bins, minlength=kernels.BINS).astype(np.int64)


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
    found = min(found, kernels.LAST_BIN)
    if found == 0:
        return 0.0  # the first bin: zero itself and magnitudes under 5e-41
    middle = np.array([(found << kernels.BIN_SHIFT) + (1 << (kernels.BIN_SHIFT - 1))], np.int32)
    return float(middle.view(np.float32)[0])


def layer_statistics(
    sums: PairSums, *, name: str, block: int | None, role: str, limits: RiskLimits = RiskLimits()
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
    starts = np.array((0.0, *RATIO_EDGES), np.float32).view(np.int32) >> kernels.BIN_SHIFT
    return LayerDetail(
        ratio_counts=tuple(np.add.reduceat(sums.ratios, starts).tolist()),
        transitions=tuple(sums.transitions.reshape(-1).tolist()),
    )


def _state(sums: PairSums, limits: RiskLimits) -> State:
    survival = sums.survival
    if survival is None:
        return "untouched"
    if survival < limits.survival:
        return "erased"
    return "drowned" if sums.same_code / sums.weights >= limits.overlap else "carried"


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

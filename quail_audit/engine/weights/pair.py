"""Sum over a pair of matrices what the statistics of a layer need, reading the weights once.

statistics.py says what the sums mean.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from quail_audit.engine.schemes.affine import AffineScheme
from quail_audit.engine.schemes.bitsandbytes import FourBit
from quail_audit.engine.schemes.interface import Scheme
from quail_audit.engine.weights.loop_sums import (
    extremes_of,
    has_loop,
    map_in_threads,
    sums_over_even_levels,
    sums_over_table,
)
from quail_audit.engine.weights.on_grid import leave_out_on_grid
from quail_audit.engine.weights.sums import PairSums
from quail_audit.engine.weights.tensor_sums import sums_by_tensor_operations

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


class MatrixPair:
    """A pair of matrices that is summed under one scheme after another. It computes once what schemes share.

    Shared are the figures that depend on no scheme, counted under the first scheme that allows it, and the extremes of
    blocks.

    Args:
        original, unlearned: [rows, columns], float32, float16 or bfloat16, on one device; the dtypes may differ.
        schemes: the schemes that they will be summed under.
        threads: number of threads on a CPU. The sums do not depend on it.

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
            if isinstance(scheme, AffineScheme) and has_loop(scheme, original)
        ]
        size = math.gcd(*blocks)
        self.extremes = map_in_threads(lambda side: extremes_of(side, size), self._sides, threads) if blocks else []

    def sums_under(self, scheme: Scheme) -> PairSums:
        """Return what the statistics need.

        Args:
            scheme: one of those given, which must not leave such matrices alone (Scheme.why_left_alone).
        """
        sums = self._sums(scheme)
        if self._shared is None:
            # If a scheme's scales overflow, the weights themselves were not counted either.
            self._shared = sums if sums.is_finite else None
        else:
            sums = self._with_shared(sums, self._shared)
        return leave_out_on_grid(sums, *self._sides, scheme)

    @staticmethod
    def _with_shared(sums: PairSums, shared: PairSums) -> PairSums:
        return replace(
            sums,
            identical=shared.identical,
            update_squared=shared.update_squared,
            update_max=shared.update_max,
            nonfinite_original=shared.nonfinite_original,
            nonfinite_unlearned=shared.nonfinite_unlearned,
            updates=shared.updates,
        )

    def _sums(self, scheme: Scheme) -> PairSums:
        if not has_loop(scheme, self._sides[0]):
            return sums_by_tensor_operations(*self._sides, scheme)
        counts_updates = self._shared is None
        if isinstance(scheme, AffineScheme):
            return sums_over_even_levels(*self._sides, scheme, self.extremes, self._threads, counts_updates)
        assert isinstance(scheme, FourBit)  # noqa: S101 - has_loop() saw to it
        return sums_over_table(*self._sides, scheme, self._threads, counts_updates)


def pair_sums(original: torch.Tensor, unlearned: torch.Tensor, scheme: Scheme, *, threads: int = 1) -> PairSums:
    """Read a pair of matrices once and sum what the statistics need under one scheme; see MatrixPair."""
    return MatrixPair(original, unlearned, [scheme], threads=threads).sums_under(scheme)

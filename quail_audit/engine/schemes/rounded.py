"""Define a rounded weight matrix, from a scheme, a backend or a packed checkpoint.

It is a module of its own because reading a packed checkpoint knows no scheme, and a scheme opens no checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch  # 1.6 s to import: only where weights are at hand


@dataclass(frozen=True, eq=False)
class RoundedMatrix:
    """A weight matrix as it is deployed, which statistics over a pair compare.

    Attributes:
        codes: uint8 [rows, columns], one code for each weight, not packed. Equal codes of two matrices mean the
            same bucket.
        values: [rows, columns], what the deployed model computes with.
        widths: float32 [rows, columns], each weight's bucket width in units of the weights; None if a stored
            matrix does not tell.
    """

    codes: torch.Tensor
    values: torch.Tensor
    widths: torch.Tensor | None = None

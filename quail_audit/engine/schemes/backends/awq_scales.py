"""Keep the factors that AWQ multiplies weights by, beside GPTQModel's checkpoint.

AWQ rounds diag(1 / rows) W diag(columns), and puts the inverse of the columns' scales into whatever comes before the
layer: a norm, or the rows of another layer. To compare an update with what rounding made of it, the scales are taken
back out. Source: AWQ (Lin et al., arXiv 2306.00978), section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from quail_audit.engine.schemes.rounded import RoundedMatrix

if TYPE_CHECKING:
    import torch

NAME = "quail-awq-scales.safetensors"  # tensors "MODULE.columns" [inputs] and "MODULE.rows" [outputs], float32


def save_scales(folder: Path, columns: Mapping[str, torch.Tensor], rows: Mapping[str, torch.Tensor]) -> None:
    """Write what each module's columns were multiplied by, and its rows divided by."""
    from safetensors.torch import save_file

    found = {f"{name}.columns": scale for name, scale in columns.items()}
    found |= {f"{name}.rows": scale for name, scale in rows.items()}
    save_file({name: scale.detach().float().cpu().flatten().clone() for name, scale in found.items()}, folder / NAME)


def undo_scales(rounded: RoundedMatrix, folder: Path, module: str) -> RoundedMatrix:
    """Return a layer's values and widths in units of the weights that AWQ was given.

    Args:
        rounded: as stored in the folder.
        folder: the checkpoint that a backend wrote.
        module: the layer.
    """
    if not (folder / NAME).exists():
        return rounded
    import torch
    from safetensors import safe_open

    factor = torch.ones(1, 1)
    with safe_open(folder / NAME, framework="pt") as scales:
        names = set(scales.keys())
        if f"{module}.columns" in names:
            factor = factor / scales.get_tensor(f"{module}.columns").unsqueeze(0)
        if f"{module}.rows" in names:
            factor = factor * scales.get_tensor(f"{module}.rows").unsqueeze(1)
    widths = None if rounded.widths is None else rounded.widths * factor.abs()
    return RoundedMatrix(codes=rounded.codes, values=rounded.values.float() * factor, widths=widths)

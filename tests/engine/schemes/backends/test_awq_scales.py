"""AWQ's scales are taken out again: what was multiplied into a weight and rounded is in the weight's own units."""

from pathlib import Path

import torch

from quail_audit.engine.schemes.backends.awq_scales import save_scales, undo_scales
from quail_audit.engine.schemes.rounded import RoundedMatrix


def test_columns_are_divided_and_rows_multiplied(tmp_path: Path) -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]])
    columns, rows = torch.tensor([2.0, 0.5, 4.0]), torch.tensor([8.0, 0.25])
    save_scales(tmp_path, {"up": columns}, {"up": rows, "down": rows})
    scaled = weight * columns / rows[:, None]  # what AWQ rounds; nothing is lost here
    codes, widths = torch.ones(2, 3, dtype=torch.uint8), torch.full((2, 3), 0.5)
    found = undo_scales(RoundedMatrix(codes, scaled, widths), tmp_path, "up")
    assert torch.equal(found.values, weight)
    assert torch.equal(found.codes, codes)
    # a bucket of the scaled weight, in units of the weight: by hand, 0.5 * row / column
    assert found.widths is not None
    assert torch.equal(found.widths, torch.tensor([[2.0, 8.0, 1.0], [0.0625, 0.25, 0.03125]]))
    by_rows = undo_scales(RoundedMatrix(codes, weight / rows[:, None]), tmp_path, "down")
    assert torch.equal(by_rows.values, weight)
    assert by_rows.widths is None


def test_what_was_not_scaled_stays(tmp_path: Path) -> None:
    rounded = RoundedMatrix(torch.zeros(1, 2, dtype=torch.uint8), torch.tensor([[1.0, 2.0]], dtype=torch.float16))
    assert undo_scales(rounded, tmp_path, "up") is rounded
    save_scales(tmp_path, {"up": torch.ones(2)}, {})
    assert torch.equal(undo_scales(rounded, tmp_path, "other").values, torch.tensor([[1.0, 2.0]]))


def test_a_negative_scale_keeps_widths_positive(tmp_path: Path) -> None:
    save_scales(tmp_path, {"up": torch.tensor([-2.0])}, {})
    rounded = RoundedMatrix(torch.zeros(1, 1, dtype=torch.uint8), torch.tensor([[4.0]]), torch.tensor([[1.0]]))
    found = undo_scales(rounded, tmp_path, "up")
    assert found.widths is not None
    assert (float(found.values), float(found.widths)) == (-2.0, 0.5)

"""Draw a curve in braille, a few lines high in the middle of text.

textual-plot's axes and ticks take more lines than the eight small plots of a training have, and each plot would be a
widget; this draws a curve into 30 x 3 cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

DOTS_ACROSS, DOTS_DOWN = 2, 4  # of a character
_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of the dot in a column and a row


def curve(places: Sequence[float], values: Sequence[float], columns: int, lines: int) -> list[str]:
    """Draw a curve through values at places, both to their full extent; blank lines if there is nothing to draw.

    Args:
        places: ascending, as many as there are values: each value's place along the axis, from 0 to 1.
        values: NaN and infinity leave a gap.
        columns, lines: of the drawing, in characters.
    """
    width, height = columns * DOTS_ACROSS, lines * DOTS_DOWN
    drawn = [(p, v) for p, v in zip(places, values, strict=True) if math.isfinite(v)]
    cells = [[0] * columns for _ in range(lines)]
    if not drawn or columns < 1 or lines < 1:
        return ["".join(chr(0x2800 + bits) for bits in row) for row in cells]
    low, high = min(v for _, v in drawn), max(v for _, v in drawn)
    dots = _thin([(min(width - 1, int(p * width)), _row(v, low, high, height)) for p, v in drawn])
    for (x0, y0), (x1, y1) in pairwise([dots[0], *dots]):
        for x, y in _line(x0, y0, x1, y1):
            cells[y // DOTS_DOWN][x // DOTS_ACROSS] |= _BITS[x % DOTS_ACROSS][y % DOTS_DOWN]
    return ["".join(chr(0x2800 + bits) for bits in row) for row in cells]


def _row(value: float, low: float, high: float, height: int) -> int:
    """Return a value's row from the top; a constant value is in the middle."""
    # in halves, as the difference of two finite numbers may overflow
    share = (value / 2 - low / 2) / (high / 2 - low / 2) if high / 2 > low / 2 else 0.5
    return round((1 - share) * (height - 1))


def _thin(dots: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Keep, of many values in one column of dots, the first, the extremes and the last."""
    kept: list[tuple[int, int]] = []
    start = 0
    for end in range(1, len(dots) + 1):
        if end == len(dots) or dots[end][0] != dots[start][0]:
            same = dots[start:end]
            rows = [y for _, y in same]
            chosen = dict.fromkeys((rows[0], min(rows), max(rows), rows[-1]))
            kept += [(same[0][0], y) for y in chosen]
            start = end
    return kept


def _line(x0: int, y0: int, x1: int, y1: int) -> list[tuple[int, int]]:
    steps = max(abs(x1 - x0), abs(y1 - y0), 1)
    return [(round(x0 + (x1 - x0) * n / steps), round(y0 + (y1 - y0) * n / steps)) for n in range(steps + 1)]

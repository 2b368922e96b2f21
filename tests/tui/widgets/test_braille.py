"""Curves in braille, worked by hand."""

import math

from hypothesis import given
from hypothesis import strategies as st

from quail_audit.tui.widgets.braille import curve


def test_a_rising_line_goes_from_the_lower_left_to_the_upper_right() -> None:
    first, second = curve([0.0, 1.0], [0.0, 1.0], 2, 2)
    assert first[0] == second[1] == "\u2800"  # the other two corners are empty
    assert ord(second[0]) & 0x40  # the lowest dot on the left
    assert ord(first[1]) & 0x08  # the highest on the right


def test_a_value_that_never_changes_is_one_level_line() -> None:
    (line,) = curve([0.0, 0.5, 1.0], [3.0, 3.0, 3.0], 3, 1)
    assert len(set(line)) == 1
    assert line[0] != "\u2800"


def test_nothing_to_draw_is_blank() -> None:
    assert curve([], [], 2, 1) == ["\u2800\u2800"]
    assert curve([0.0], [math.nan], 2, 1) == ["\u2800\u2800"]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(allow_nan=True, allow_infinity=True)), max_size=40),
    st.integers(0, 12),
    st.integers(0, 6),
)
def test_any_values_fill_exactly_the_room_given(points: list[tuple[float, float]], columns: int, lines: int) -> None:
    points.sort(key=lambda point: point[0])
    drawn = curve([place for place, _ in points], [value for _, value in points], columns, lines)
    assert [len(line) for line in drawn] == [columns] * lines
    assert all(0x2800 <= ord(character) < 0x2900 for line in drawn for character in line)

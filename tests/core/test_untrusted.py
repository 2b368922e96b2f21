import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from quail_audit.core.untrusted import printable, printable_document


def test_escape_codes_become_visible() -> None:
    assert printable("a\x1b[31mred\x07") == r"a\x1b[31mred\x07"


def test_text_that_reorders_or_hides_becomes_visible() -> None:
    assert printable("abc\u202ecba\u200b") == r"abc\u202ecba\u200b"


def test_lines_stay_on_one_line() -> None:
    assert printable("a\nb\tc") == "a⏎b c"


def test_plain_text_of_any_language_stays() -> None:
    assert printable("Zürich 東京 [bold] 🐦") == "Zürich 東京 [bold] 🐦"


@given(st.text(st.characters(codec=None)))
def test_nothing_that_acts_on_a_screen_is_left(text: str) -> None:
    assert not [c for c in printable(text) if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}]


@given(st.text(), st.integers(1, 50))
def test_the_limit_holds_for_plain_text(text: str, limit: int) -> None:
    plain = "".join(c for c in text if c.isalnum())
    shown = printable(plain, limit=limit)
    assert len(shown) <= limit
    assert shown == plain or shown.endswith("…")


def test_a_document_is_printable_in_keys_and_values() -> None:
    document = {"a\x1b": ["b\n", 1, None, {"c": "\u202e"}], "d": 0.5, "e": True}
    assert printable_document(document) == {"a\\x1b": ["b⏎", 1, None, {"c": "\\u202e"}], "d": 0.5, "e": True}

"""Make untrusted text safe to show on a terminal or a page.

Escape codes, other control characters and the characters that reorder or hide text become visible escapes. Markup is
left as it is: callers pass such text as plain text, never as markup.
"""

import unicodedata
from typing import Any

_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})  # control, format, surrogate, private, separators


def printable(text: str, *, limit: int | None = None) -> str:
    """Return the text on one line, with nothing in it that acts on a screen.

    Args:
        text: any string, lone surrogates included.
        limit: the most characters; a longer text ends in an ellipsis.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return "".join(character if _is_plain(character) else _escape(character) for character in text)


def printable_document(document: Any) -> Any:
    """Return a JSON document with every string made printable, keys included."""
    if isinstance(document, dict):
        return {printable(key): printable_document(value) for key, value in document.items()}
    if isinstance(document, list):
        return [printable_document(value) for value in document]
    return printable(document) if isinstance(document, str) else document


def _is_plain(character: str) -> bool:
    plain_ascii = character.isascii() and character.isprintable()
    return plain_ascii or unicodedata.category(character) not in _HIDDEN_CATEGORIES


def _escape(character: str) -> str:
    if character == "\n":
        return "⏎"
    if character == "\t":
        return " "
    return character.encode("unicode_escape", errors="backslashreplace").decode("ascii")

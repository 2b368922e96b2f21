"""Read the paraphrases that a row has of its question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quail_audit.engine.forgetting.data.files.json_files import json_kind, parse_cell
from quail_audit.engine.forgetting.data.spellings import PARAPHRASES, find_key
from quail_audit.engine.forgetting.data.types import refuse_surrogates


def read_paraphrases(row: Mapping[str, Any], question: str, joined: str = "") -> tuple[str, ...]:
    """Return a question's paraphrases, each once; what is empty, or the question itself, is left out.

    Args:
        row: the row, which need not have any.
        question: the question, with what is joined to it.
        joined: what follows the question's own text, such as an instruction's input; it follows a paraphrase too.

    Raises:
        ValueError: one is not a text; says its key and why.
    """
    found: dict[str, str] = {}  # by what two that are alike have in common
    for name in PARAPHRASES:
        key = find_key(name, row)
        value = None if key is None else parse_cell(row[key])
        for text in value if isinstance(value, list) else [value]:
            if text is None or text != text:  # NaN is how pandas writes that there is nothing
                continue
            if not isinstance(text, str):
                raise ValueError(f"{key}: a text or a list of texts is needed, not a JSON {json_kind(text)}")
            try:
                refuse_surrogates(text)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
            if text.strip():
                whole = f"{text}{joined}"
                found.setdefault(whole.strip(), whole)
    found.pop(question.strip(), None)
    return tuple(found.values())

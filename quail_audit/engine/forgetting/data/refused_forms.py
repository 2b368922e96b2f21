"""Name forms of rows whose meaning is not plain, with the line that converts them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from quail_audit.engine.forgetting.data.files.objects import Objects
from quail_audit.engine.forgetting.data.spellings import Columns

LONGEST_KEY = 60  # that a command names
_CHOICES = ("choices", "options", "endings")
_LETTERS = "abcdefgh"
# (keys, what such a row has, what it becomes)
_KNOWN = (
    (("prompt", "chosen"), "a preferred answer", '{"question": r["prompt"], "answer": r["chosen"]}'),
    (("question", "chosen"), "a preferred answer", '{"question": r["question"], "answer": r["chosen"]}'),
)


def find_choices(row: Mapping[str, Any], question: str, answer: str) -> tuple[str, str] | None:
    """Return (problem, what the row becomes) if a row's answer names one of several choices instead of saying it.

    Asked without its choices, such a question cannot be answered, and the letter or number says nothing to compare.

    Args:
        row: the row.
        question: the key of its question.
        answer: the key of its answer.
    """
    if len(row) <= 2:
        return None
    said = row[answer]
    named = {key.strip().casefold(): key for key in map(str, row)}
    for name in _CHOICES:
        choices = row.get(named.get(name, ""))
        if isinstance(choices, dict):  # {"text": […], "label": ["A", …]}
            choices = choices.get("text")
        if isinstance(choices, list) and choices and not (isinstance(said, str) and said in choices):
            key = json.dumps(named[name])
            asked = f'r[{json.dumps(question)}] + "".join("\\n- " + c for c in r[{key}])'
            becomes = f'{{"question": {asked}, "answer": r[{key}][r[{json.dumps(answer)}]]}}'
            becomes = becomes if isinstance(said, int) and isinstance(row[named[name]], list) else ""
            return f"the answer is the number or letter of one of the {name}, not a text", becomes
    lettered = [
        name
        for letter in _LETTERS
        for name in (letter, f"option_{letter}", f"choice_{letter}", f"option {letter}", f"option{letter}")
        if name in named
    ]
    short = str(said).strip().strip("().").casefold()
    if len(lettered) >= 2 and (short in _LETTERS or short.isdecimal()):
        return "the answer is the letter of one of several choices, not a text", ""
    return None


def mend_unknown(found: Objects, keys: Sequence[str], columns: Columns) -> str:
    """Return what to do about rows of no known form; empty if nothing more can be said than what is expected."""
    first = found.rows[0][1]
    keys = [key for key in keys if len(key) <= LONGEST_KEY]
    if isinstance(first, list) and len(first) == 2 and all(isinstance(cell, str) for cell in first):
        command = found.rewritten('{"question": r[0], "answer": r[1]}')
        return f"If each is a question and its answer: {command}" if command else ""
    if not isinstance(first, dict):
        return ""
    if found.layout == "lines" and len(found.rows) == 1 and any("?" in key or " " in key.strip() for key in keys):
        return f"If its keys are questions and its values their answers: {_items_as_rows(found)}"
    if any(name in keys for name in columns.labels) and not any(name in keys for name in columns.texts):
        texts = [key for key in keys if key not in columns.labels and isinstance(first[key], str)]
        if texts:
            longest = max(texts, key=lambda key: len(first[key]))
            return (
                f"If these are texts to classify, name their column: --text-column {longest}; "
                "else give {question, answer}, {prompt, completion} or {text}"
            )
    for wanted, kind, becomes in _KNOWN:
        if set(wanted) <= set(keys):
            return f"Such a row has {kind}. To take it as the answer: {found.rewritten(becomes)}"
    texts = [key for key in keys if isinstance(first[key], str) and first[key].strip()]
    headed = ""
    if found.columns and len(keys) <= 2:
        headed = f". If the first line is a row already, put names above it: {_put_above(found, len(keys))}"
    expected = f"Expected {{prompt, completion}} or {{question, answer}} or {{text}} or {columns}"
    options = "" if columns.text is None and not found.columns else "; --text-column and --label-column name others"
    if len(texts) == 2:
        quoted = [json.dumps(key) for key in texts]
        command = found.rewritten(f'{{"question": r[{quoted[0]}], "answer": r[{quoted[1]}]}}')
        if command:
            return f"{expected}{options}{headed}. If {texts[0]!r} is a question and {texts[1]!r} its answer: {command}"
    if len(texts) == 1 and not any(isinstance(value, dict | list) for value in first.values()):
        command = found.rewritten(f'{{"text": r[{json.dumps(texts[0])}]}}')
        if command:
            return f"{expected}{options}{headed}. If {texts[0]!r} is the text: {command}"
    return f"{expected}, the same in every row{options}"


def _items_as_rows(found: Objects) -> str:
    old, new = shlex.quote(f"{found.path}.old"), shlex.quote(str(found.path))
    source = f"json.load(open(0, encoding={json.dumps(found.encoding)}))"
    program = f'import json; [print(json.dumps({{"question": q, "answer": a}})) for q, a in {source}.items()]'
    return f"mv {new} {old} && python3 -c {shlex.quote(program)} < {old} > {new}"


def _put_above(found: Objects, columns: int) -> str:
    old, new = shlex.quote(f"{found.path}.old"), shlex.quote(str(found.path))
    names = shlex.quote(found.delimiter.join(("question", "answer"))) if columns == 2 else "text"
    return f"mv {new} {old} && (echo {names}; cat {old}) > {new}"


def list_keys(keys: Sequence[str]) -> str:
    """Return the first keys in words."""
    few = ", ".join(repr(key[:40]) for key in keys[:5])
    return f"{few}, …" if len(keys) > 5 else few

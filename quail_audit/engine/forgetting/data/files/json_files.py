"""Parse JSON and JSON Lines, told apart by content; errors name line and column."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.data.files.objects import Layout, Objects
from quail_audit.engine.forgetting.data.files.text_files import TextFile

LINE_SUFFIXES = (".jsonl", ".ndjson")
WRAPPERS = ("data", "rows", "examples", "instances", "items", "samples", "records")
ONLY_WHITESPACE = " \t\n\r"


class _RepeatedKeyError(ValueError):
    """A key that an object has twice."""


def parse_json(file: TextFile, path: Path) -> Objects:
    """Return the objects of a file: a list, one object a line or after another, or {"data": […]}.

    Raises:
        BadInputError: it is not JSON, has an object with a key twice, or is one value with no rows in it.
    """
    text = file.text
    if not text.strip():
        raise BadInputError(
            "the file is empty: it has no rows", where=str(path), mend="Give one JSON object a line, or a JSON list"
        )

    def objects(rows: Iterator[tuple[str, object]], layout: Layout, inside: str | None = None) -> Objects:
        return Objects(path, tuple(rows), layout, inside=inside, encoding=file.encoding, notes=file.notes)

    # not splitlines(): a JSON string may hold characters that it takes for line ends
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if _is_one_object_a_line(lines, path):
        return objects(((f"line {number}", _parse(line, path, number)) for number, line in lines), "lines")
    values = list(_values(text, path))
    document = values[0][1]
    if len(values) == 1 and isinstance(document, list):
        return objects(_numbered(document), "list")
    if len(values) == 1 and isinstance(document, dict):
        if (key := _inside(document)) is not None:
            found = document[key]
            if found and all(
                isinstance(row, dict) and "row_idx" in row and isinstance(row.get("row"), dict) for row in found
            ):
                return objects(_numbered([row["row"] for row in found]), "")  # as a dataset viewer gives them
            return objects(_numbered(found), "list", key)
        if (columns := _columns(document)) is not None:
            return objects(_numbered(columns), "")
    every = ((f"line {number}", value) for number, value in values)
    return objects(every, "lines" if len(values) == len(lines) else "")


def _numbered(rows: list[Any]) -> Iterator[tuple[str, object]]:
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _inside(document: object) -> str | None:
    """Return the key of an object's list of rows, if it has one under a name for rows, and no other list."""
    if not isinstance(document, dict):
        return None
    lists = [key for key, value in document.items() if isinstance(value, list)]
    return lists[0] if len(lists) == 1 and lists[0] in WRAPPERS else None


def _columns(document: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the rows of an object of columns, {"question": ["a", "b"], …}; None if it is none.

    pandas also writes {"question": {"0": "a", "1": "b"}, …}.
    """
    values = list(document.values())
    if len(values) < 2:
        return None
    if all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
        cells = values
    elif all(isinstance(value, dict) and value.keys() == values[0].keys() for value in values):
        if list(values[0]) != [str(number) for number in range(len(values[0]))]:
            return None
        cells = [list(value.values()) for value in values]
    else:
        return None
    if not all(isinstance(cell, str) for cell in cells[0]):
        return None
    return [dict(zip(document, row, strict=True)) for row in zip(*cells, strict=True)]


def _is_one_object_a_line(lines: list[tuple[int, str]], path: Path) -> bool:
    if len(lines) < 2:
        return False
    if _is_whole(lines[0][1]):
        return True
    named = any(suffix in LINE_SUFFIXES for suffix in path.suffixes)
    # the first line is broken: the second tells
    return named and lines[0][1].lstrip()[:1] == "{" and lines[1][1].lstrip()[:1] == "{" and _is_whole(lines[1][1])


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parse(line: str, path: Path, number: int) -> object:
    values = list(_values(line, path, number))
    if len(values) > 1:
        raise BadInputError(
            f"line {number} holds {len(values)} JSON values, one after another", where=str(path), mend="Give one a line"
        )
    return values[0][1]


def _values(text: str, path: Path, line: int | None = None) -> Iterator[tuple[int, object]]:
    """Yield the JSON values of a text, each with the line that it begins on; line: the only line's number."""
    at = _skip(text, 0)
    number, counted = line or 1, 0
    while at < len(text):
        number += text.count("\n", counted, at)
        counted = at
        try:
            value, end = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise _not_json(error, text, path, line) from error
        except RecursionError as error:
            raise BadInputError(f"line {number}: the JSON is nested too deeply", where=str(path)) from error
        except _RepeatedKeyError as error:
            raise BadInputError(
                f"line {number}: an object has the key {error.args[0][:40]!r} twice",
                where=str(path),
                mend="Take out one",
            ) from error
        except ValueError as error:  # a number of more digits than Python reads
            raise BadInputError(f"line {number}: the file is not valid JSON: {error}", where=str(path)) from error
        yield number, value
        following = _skip(text, end)
        if following < len(text) and (text[following] not in "{" or not isinstance(value, dict)):
            raise _not_json(json.JSONDecodeError("Extra data", text, following), text, path, line)
        at = following


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in ONLY_WHITESPACE:
        at += 1
    return at


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def _not_json(error: json.JSONDecodeError, text: str, path: Path, line: int | None) -> BadInputError:
    place = f"line {line}: " if line else ""
    at = f"column {error.colno}" if line else f"line {error.lineno}, column {error.colno}"
    what, mend = _explain(error, text, path)
    return BadInputError(f"{place}the file is not valid JSON: {what} at {at}", where=str(path), mend=mend)


def _explain(error: json.JSONDecodeError, text: str, path: Path) -> tuple[str, str]:
    """Return what is wrong in words, and how to mend it."""
    old, new = shlex.quote(f"{path}.old"), shlex.quote(str(path))
    before, found = text[: error.pos].rstrip(), text[error.pos : error.pos + 1]
    if found and found in "]}" and before.endswith(","):
        return f"a comma before the closing {found}", "Take the comma out"
    if found == "," and error.msg == "Extra data":
        mend = f"Take out the commas between the lines: mv {new} {old} && sed 's/,[[:space:]]*$//' {old} > {new}"
        return "a comma after the first value", mend
    if error.msg.startswith("Illegal trailing comma"):
        return "a comma before the closing bracket", "Take the comma out"
    if re.match(r"\s*\{\s*'", text):
        program = (
            "import ast, json, sys; [print(json.dumps(ast.literal_eval(r))) for r in filter(str.strip, sys.stdin)]"
        )
        command = f"mv {new} {old} && python3 -c {shlex.quote(program)} < {old} > {new}"
        return f"{error.msg} (it is Python's form, with single quotes)", f"Write it as JSON: {command}"
    if error.pos == 0 or not before:
        return (
            f"{error.msg} (it begins with {text.strip()[:20]!r})",
            'Give JSON lines or a JSON list; call a table .csv, and make one object {"text": …} of each text',
        )
    return error.msg, ""


def parse_document(file: TextFile, path: Path, expected: str) -> object:
    """Return the one value that a file holds.

    Args:
        file: its text.
        path: the file.
        expected: what it should hold, for the errors.

    Raises:
        BadInputError: it holds none or several, is not JSON, or has an object with a key twice.
    """
    values = [value for _, value in _values(file.text, path)]
    if len(values) != 1:
        raise BadInputError(f"the file holds {len(values)} JSON values, not one", where=str(path), mend=expected)
    return values[0]


def parse_cell(cell: object) -> object:
    """Return the list in a table's cell, which holds it as JSON; any other cell as it is."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            return json.loads(cell)
    return cell


def json_kind(value: object) -> str:
    """Return the word for a JSON value's kind."""
    kinds = {dict: "object", list: "list", str: "string", bool: "truth value", type(None): "null"}
    return kinds.get(type(value), "number")

"""Read data files as rows, whatever their format and spelling. Errors name the file, the row and the mend."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, cast

from pydantic import ValidationError

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.data.chats import NoExchangeError, is_chat, read_exchange, single_question
from quail_audit.engine.forgetting.data.files.json_files import json_kind, parse_cell, parse_json
from quail_audit.engine.forgetting.data.files.objects import Objects
from quail_audit.engine.forgetting.data.files.tables import PARQUET, parse_csv, read_parquet
from quail_audit.engine.forgetting.data.files.text_files import decode_file, read_bytes
from quail_audit.engine.forgetting.data.paraphrases import read_paraphrases
from quail_audit.engine.forgetting.data.refused_forms import find_choices, list_keys, mend_unknown
from quail_audit.engine.forgetting.data.spellings import (
    BY_MODEL,
    CHATS,
    IN_ORDER,
    PLAIN_TEXT,
    Columns,
    Form,
    R,
    match_form,
)
from quail_audit.engine.forgetting.data.types import Continuation, Labelled, QuestionAnswer, Row

TABLE_SUFFIXES = (".csv", ".tsv")


@dataclass(frozen=True)
class Rows(Generic[R]):
    """The rows of a file, and what the report says about reading them."""

    rows: tuple[R, ...]
    notes: tuple[str, ...] = ()


def read_part(path: Path, form: Form[R]) -> Rows[R]:
    """Read a file that is named for its rows, such as verbmem/forget.json.

    Args:
        path: the file.
        form: the form that such a file has in MUSE; others with the same meaning are read too.

    Raises:
        QuailError: the file cannot be read, has no rows, or one that is not of the form.
    """
    found = _read_objects(path)
    if not found.rows:
        raise BadInputError(f"the {_whole(found)} has no rows", where=str(path), mend=f"Expected a list of {form}")
    return _read_rows(found, _form_in(found, (form, *BY_MODEL[form.model])) or (form, {}), f"Expected {form}")


def read_rows(path: Path, columns: Columns = Columns()) -> Rows[Row]:  # noqa: B008 - frozen
    """Read a file that may have any of the forms in spellings.py; the first row tells the form of all.

    A text and a label come before other forms. A label may also be a whole number.

    Raises:
        QuailError: the file cannot be read, has no rows, or its rows are of no form, or not of one.
    """
    found = _read_objects(path)
    expected = (
        f"Expected {_forms_in_words(columns)}, the same in every row; --text-column and --label-column name others"
    )
    if not found.rows:
        raise BadInputError(f"the {_whole(found)} has no rows", where=str(path), mend=expected)
    place, first = found.rows[0]
    keys = tuple(map(str, first)) if isinstance(first, dict) else ()
    if (labelled := columns.form_of(keys)) is not None:
        return cast("Rows[Row]", _read_rows(found, (labelled, {key: key for key in labelled.keys}), expected))
    form = _form_in(found, (PLAIN_TEXT, *IN_ORDER) if isinstance(first, str) else IN_ORDER)
    if form is None:
        if found.columns:
            what = f"no column that Quail knows: its first line has {list_keys(keys)}"
        else:
            what = f"{place}: keys {list_keys(sorted(keys))}" if keys else f"{place}: {json_kind(first)}"
        raise BadInputError(what, where=str(path), mend=mend_unknown(found, keys, columns) or expected)
    return _read_rows(found, form, f"Expected {form[0]}, as in the first row")


def _read_objects(path: Path) -> Objects:
    data = read_bytes(path)
    if data.startswith(PARQUET):
        return read_parquet(data, path)
    file = decode_file(data, path)
    if any(suffix in TABLE_SUFFIXES for suffix in path.suffixes) and file.text.lstrip()[:1] not in ("{", "["):
        return parse_csv(file, path)
    return parse_json(file, path)


def _form_in(found: Objects, forms: Iterable[Form[R]]) -> tuple[Form[R], dict[str, str]] | None:
    first = found.rows[0][1]
    if isinstance(first, str):
        return next(((form, {}) for form in forms if form.may_be_plain), None)
    if not isinstance(first, dict):
        return None
    matched = match_form(forms, tuple(map(str, first)))
    if matched is None:
        return None
    form, names = matched
    if form.model is Continuation and all(is_chat(first[names[key]]) for key in form.keys):
        return cast("Form[R]", CHATS[0]), names
    return matched


def _read_rows(found: Objects, form: tuple[Form[R], dict[str, str]], expected: str) -> Rows[R]:
    notes = list(found.notes)
    if form[0].note:
        notes.append(f"{found.path.name}: {form[0]} was {form[0].note}")
    reader = _Reader(found, *form, expected)
    rows = tuple(reader.row(place, value) for place, value in found.rows)
    without = sum(isinstance(row, QuestionAnswer) and not row.paraphrases for row in rows)
    if form[0].model is QuestionAnswer and without < len(rows) and without:
        notes.append(
            f"{found.path.name}: {without} of {len(rows)} questions have no paraphrase, and are asked fewer ways"
        )
    if reader.systems:
        notes.append(
            f"{found.path.name}: the system's message of {reader.systems} of {len(rows)} chats is left out, as "
            "questions are asked without one"
        )
    return Rows(rows, tuple(notes))


class _Reader(Generic[R]):
    """Reads the rows of one file in one form."""

    def __init__(self, found: Objects, form: Form[R], names: Mapping[str, str], expected: str) -> None:
        self._found = found
        self._form = form
        self._names = dict(names) or {key: key for key in form.keys}
        self._expected = expected
        if form.is_chat:
            self._expected = "Expected in each row one user's message and the assistant's answer to it"
        self.systems = 0  # chats whose system's message was left out

    def row(self, place: str, row: object) -> R:
        if self._form.may_be_plain and isinstance(row, str):
            row = {self._names.get(self._form.keys[0], self._form.keys[0]): row}
        if not isinstance(row, dict):
            command = self._found.rewritten(kept="r is not None") if row is None else ""
            raise self._refuse(f"{place} is a JSON {json_kind(row)}", command, "to take such rows out")
        for key in self._form.keys:
            if self._names[key] not in row:
                found = f"keys {list_keys(sorted(map(str, row)))}" if row else "no keys"
                raise self._refuse(f"{place} has no {self._names[key]!r} ({found})")
        if self._form.is_chat:
            return self._exchange(place, row)
        if self._form.model is QuestionAnswer and (
            choices := find_choices(row, *(self._names[key] for key in self._form.keys))
        ):
            raise self._refuse(f"{place}: {choices[0]}", self._found.rewritten(choices[1]) if choices[1] else "")
        cells = {key: self._cell(place, self._names[key], row[self._names[key]]) for key in self._form.keys}
        first = self._form.keys[0]
        joined = ""
        for key in self._form.joined:
            more = row.get(self._names.get(key, ""))
            joined += f"\n{more}" if isinstance(more, str) and more.strip() else ""
        if isinstance(cells[first], str):
            cells[first] += joined
        return self._with_paraphrases(place, self._validated(place, list(cells.values())), row, joined)

    def _cell(self, place: str, key: str, value: object) -> Any:
        """Return a cell's value; a list of one text as that text."""
        if self._form.model is Labelled:
            if key == self._names[self._form.keys[1]]:
                whole = isinstance(value, int) and not isinstance(value, bool)
                return str(value) if whole else value.strip() if isinstance(value, str) else value
            return value
        quoted = json.dumps(key)
        texts, one = value, f"(lambda a: a if isinstance(a, str) else a[0])(r[{quoted}])"
        if isinstance(value, dict) and isinstance(value.get("text"), list):  # as in SQuAD
            texts, one = value["text"], f'r[{quoted}]["text"][0]'
        if isinstance(value, dict) and isinstance(value.get("value"), str):  # as in TriviaQA
            command = self._found.rewritten(f'{{**r, {quoted}: r[{quoted}]["value"]}}')
            raise self._refuse(f"{place}: {key} is an object: give one text", command, "to take its value")
        if not isinstance(texts, list):
            return value
        if is_chat(texts) and (asked := single_question(texts)) is not None:
            return asked
        if len(texts) and all(isinstance(text, str) and text == texts[0] for text in texts):
            return texts[0]
        several = f"a list of {len(texts)}: give one" if texts else "an empty list"
        command = self._found.rewritten(f"{{**r, {quoted}: {one}}}") if texts and isinstance(texts[0], str) else ""
        raise self._refuse(f"{place}: {key} is {several}", command, "to take the first of each")

    def _exchange(self, place: str, row: Mapping[str, Any]) -> R:
        keys = [self._names[key] for key in self._form.keys]
        row = {**row, **{key: parse_cell(row[key]) for key in keys}}
        messages = [message for key in keys if isinstance(row[key], list) for message in row[key]]
        try:
            question, answer, system = read_exchange(messages if len(keys) > 1 or messages else row[keys[0]])
        except NoExchangeError as error:
            command = ""
            if error.turns and len(keys) == 1:
                key = json.dumps(keys[0])
                said = f"[m for m in r[{key}] if m.get('role', m.get('from')) not in ('system', 'developer')]"
                command = self._found.rewritten(f"{{{key}: {said}[:2]}}")
            aim = "to take the first question of each"
            raise self._refuse(f"{place}: {keys[0]} {error}", command, aim) from error
        self.systems += bool(system)
        return self._with_paraphrases(place, self._validated(place, [question, answer]), row)

    def _with_paraphrases(self, place: str, validated: R, row: Mapping[str, Any], joined: str = "") -> R:
        if not isinstance(validated, QuestionAnswer):
            return validated
        try:
            paraphrases = read_paraphrases(row, validated.question, joined)
        except ValueError as error:
            raise self._refuse(f"{place}: {error}") from error
        return validated.model_copy(update={"paraphrases": paraphrases})

    def _validated(self, place: str, cells: list[Any]) -> R:
        fields = [name for name in self._form.model.model_fields if name != "paraphrases"]
        values = dict(zip(fields, cells, strict=True))
        keys = self._form.keys if len(self._form.keys) == len(cells) else (self._form.keys[0],) * len(cells)
        try:
            return self._form.model.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = str(first["loc"][0])
            key = self._names[dict(zip(values, keys, strict=True))[field]]
            value = values[field]
            if isinstance(value, str):
                problem = first["msg"].removeprefix("Value error, ")
                wanted = " and ".join(f"r[{json.dumps(self._names[each])}].strip()" for each in dict.fromkeys(keys))
                blank = not value.strip() and not self._form.is_chat and self._form.model is not Labelled
                command = self._found.rewritten(kept=wanted) if blank else ""
                raise self._refuse(f"{place}: {key}: {problem}", command, "to take such rows out") from error
            quoted = json.dumps(key)
            is_absent = value is None or value != value  # NaN is how pandas writes that there is nothing
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and not is_absent
            command = self._found.rewritten(f"{{**r, {quoted}: str(r[{quoted}])}}") if is_number else ""
            if is_absent:
                command = self._found.rewritten(kept=f"r[{quoted}] is not None and r[{quoted}] == r[{quoted}]")
            aim = "to take such rows out" if is_absent else "if the number itself is meant"
            raise self._refuse(
                f"{place}: {key}: a valid string is needed, not a JSON {json_kind(value)}", command, aim
            ) from error

    def _refuse(self, what: str, command: str = "", aim: str = "") -> BadInputError:
        mend = f"{self._expected}; {aim}: {command}" if command and aim else self._expected
        if command and not aim:
            mend = f"Write it so: {command}"
        return BadInputError(what, where=str(self._found.path), mend=mend)


def _whole(found: Objects) -> str:
    return "list" if found.layout == "list" else "file"


def _forms_in_words(columns: Columns) -> str:
    return f"{{prompt, completion}} or {{question, answer}} or {{text}} or {columns}"

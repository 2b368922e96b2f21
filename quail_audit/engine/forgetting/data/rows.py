"""Read JSON, JSON Lines and CSV files of rows. Errors name the file and the row."""

import csv
import io
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.data.types import Continuation, Labelled, Passage, QuestionAnswer, Row

R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Form(Generic[R]):
    """The form of a row in a file.

    Attributes:
        model: the class of the row.
        keys: the row's keys in the file, in the order of the model's fields. Other keys are ignored.
        may_be_plain: whether a row may also be a bare string.
    """

    model: type[R]
    keys: tuple[str, ...]
    may_be_plain: bool = False

    def __str__(self) -> str:
        return "a string" if self.may_be_plain else "{" + ", ".join(self.keys) + "}"


PROMPT_AND_TRUTH = Form(Continuation, ("prompt", "gt"))
PROMPT_AND_COMPLETION = Form(Continuation, ("prompt", "completion"))
QUESTION_AND_ANSWER = Form(QuestionAnswer, ("question", "answer"))
PLAIN_TEXT = Form(Passage, ("text",), may_be_plain=True)
TEXT = Form(Passage, ("text",))

TEXT_COLUMNS = ("text", "tweet")
LABEL_COLUMNS = ("label",)

JSONL_FORMS: tuple[Form[Any], ...] = (PROMPT_AND_COMPLETION, QUESTION_AND_ANSWER, TEXT)


@dataclass(frozen=True)
class Columns:
    """The names of the text and the label columns; None: those of TEXT_COLUMNS, of LABEL_COLUMNS."""

    text: str | None = None
    label: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """Names to look for, in this order."""
        return TEXT_COLUMNS if self.text is None else (self.text,)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names to look for, in this order."""
        return LABEL_COLUMNS if self.label is None else (self.label,)

    def form_of(self, found: Collection[str]) -> Form[Labelled] | None:
        """Return the form of rows with these keys; None if the text or the label is missing."""
        text = next((name for name in self.texts if name in found), None)
        label = next((name for name in self.labels if name in found), None)
        return None if text is None or label is None or text == label else Form(Labelled, (text, label))

    def __str__(self) -> str:
        return f"{{{' or '.join(self.texts)}, {' or '.join(self.labels)}}}"


def read_json_rows(path: Path, form: Form[R]) -> tuple[R, ...]:
    """Read a JSON list of rows.

    Raises:
        BadInputError: the file cannot be read, is not UTF-8, not JSON, not a list, empty, or has a bad row.
    """
    document = _parse(read_text(path), path)
    if not isinstance(document, list):
        raise BadInputError(
            f"the file holds one JSON {_json_kind(document)}, not a list",
            where=str(path),
            mend=f"Expected a list of {form}",
        )
    if not document:
        raise BadInputError("the list has no rows", where=str(path), mend=f"Expected a list of {form}")
    return tuple(_read_row(row, form, path, f"row {number}") for number, row in enumerate(document, start=1))


def read_jsonl_rows(path: Path, columns: Columns = Columns()) -> tuple[Row, ...]:
    """Read a file of one JSON object a line; the first tells the form of all. Blank lines are skipped.

    A label may also be a whole number.

    Raises:
        BadInputError: as read_json_rows; also if the form is none of JSONL_FORMS and there are no such columns.
    """
    objects = list(_parse_lines(path))
    if not objects:
        raise BadInputError(
            "the file has no rows", where=str(path), mend=f"Expected on each line {_forms_in_words(columns)}"
        )
    number, first = objects[0]
    form = _form_of(first, path, number, columns)
    return tuple(_read_row(row, form, path, f"line {number}") for number, row in objects)


def read_csv_rows(path: Path, columns: Columns) -> tuple[Labelled, ...]:
    """Read a CSV file whose first line names its columns, of which others than the two are ignored.

    Raises:
        BadInputError: the file cannot be read, is not UTF-8, not CSV, has no such columns, no rows, or a bad row.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    expected = f"Expected a first line that names the columns {columns}; --text-column and --label-column name others"
    rows: list[Labelled] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        form = columns.form_of(header)
        if form is None:
            found = f"its first line has {_short_list(header)}" if header else "the file is empty"
            raise BadInputError(f"no text column, or no label column: {found}", where=str(path), mend=expected)
        for fields in reader:
            if not fields:
                continue
            place = f"line {reader.line_num}"
            if len(fields) != len(header):
                raise BadInputError(
                    f"{place} has {len(fields)} fields, the first line {len(header)}", where=str(path), mend=expected
                )
            row = dict(zip(header, fields, strict=True))
            rows.append(_read_row({**row, form.keys[1]: row[form.keys[1]].strip()}, form, path, place))
    except csv.Error as error:
        raise BadInputError(
            f"line {reader.line_num} is not valid CSV: {error}", where=str(path), mend=expected
        ) from error
    if not rows:
        raise BadInputError("the file has no rows", where=str(path), mend=expected)
    return tuple(rows)


def _parse_lines(path: Path) -> Iterator[tuple[int, object]]:
    # not splitlines(): a JSON string may hold characters that it takes for line ends
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, _parse(line, path, f"line {number}: ")


def _form_of(row: object, path: Path, number: int, columns: Columns) -> Form[Any]:
    keys = set(row) if isinstance(row, dict) else set()
    if (labelled := columns.form_of(keys)) is not None:
        return labelled
    for form in JSONL_FORMS:
        if set(form.keys) <= keys:
            return form
    found = f"keys {_short_list(sorted(keys))}" if keys else _json_kind(row)
    raise BadInputError(
        f"line {number}: {found}",
        where=str(path),
        mend=f"Expected on each line {_forms_in_words(columns)}, the same on all",
    )


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        BadInputError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"the file is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}",
            where=str(path),
            mend="Write it again as UTF-8",
        ) from error
    except OSError as error:
        raise BadInputError(f"cannot read the data: {error.strerror or error}", where=str(path)) from error


def _parse(text: str, path: Path, place: str = "") -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"column {error.colno}" if place else f"line {error.lineno}, column {error.colno}"
        what = "is empty" if not text.strip() else f"is not valid JSON: {error.msg} at {at}"
        raise BadInputError(f"{place}the file {what}", where=str(path)) from error
    except RecursionError as error:
        raise BadInputError(f"{place}the JSON is nested too deeply", where=str(path)) from error
    except ValueError as error:  # a number of more digits than Python reads
        raise BadInputError(f"{place}the file is not valid JSON: {error}", where=str(path)) from error


def _read_row(row: object, form: Form[R], path: Path, place: str) -> R:
    if form.may_be_plain and isinstance(row, str):
        row = {form.keys[0]: row}
    expected = f"Expected {form}"
    if not isinstance(row, dict):
        raise BadInputError(f"{place} is a JSON {_json_kind(row)}", where=str(path), mend=expected)
    for key in form.keys:
        if key not in row:
            found = f"keys {_short_list(sorted(row))}" if row else "no keys"
            raise BadInputError(f"{place} has no {key!r} ({found})", where=str(path), mend=expected)
    values = {field: row[key] for field, key in zip(form.model.model_fields, form.keys, strict=True)}
    if isinstance(values.get("label"), int) and not isinstance(values["label"], bool):
        values["label"] = str(values["label"])
    try:
        return form.model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = dict(zip(form.model.model_fields, form.keys, strict=True))[str(first["loc"][0])]
        what = first["msg"].removeprefix("Value error, ")
        raise BadInputError(f"{place}: {key}: {what}", where=str(path), mend=expected) from error


def _forms_in_words(columns: Columns) -> str:
    return " or ".join(map(str, (*JSONL_FORMS, columns)))


def _short_list(keys: list[str]) -> str:
    few = ", ".join(repr(key[:40]) for key in keys[:5])
    return f"{few}, …" if len(keys) > 5 else few


def _json_kind(value: object) -> str:
    kinds = {dict: "object", list: "list", str: "string", bool: "truth value", type(None): "null"}
    return kinds.get(type(value), "number")

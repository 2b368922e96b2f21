"""Read tables as objects: CSV, with tabs or semicolons too, and Parquet."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path
from typing import Any

from quail_audit.core.errors import BadInputError, EnvironmentProblemError, first_line
from quail_audit.engine.forgetting.data.files.objects import Objects, new_name
from quail_audit.engine.forgetting.data.files.text_files import TextFile

PARQUET = b"PAR1"
LONGEST_FIELD = 2**31 - 1  # in characters; csv's own limit is 131072
OLDEST_PYARROW = (14, 0, 1)  # older ones can be made to run code by a file (CVE-2023-47248)


def parse_csv(file: TextFile, path: Path) -> Objects:
    """Return the rows of a table whose first line names its columns.

    Fields are parted by commas; by tabs or semicolons if the first line has those and no comma.

    Raises:
        BadInputError: it is not CSV, a row has more or fewer fields than columns, a column is there twice, or no rows.
    """
    expected = "Expected a first line that names the columns, and as many fields on each line"
    first_line = file.text.lstrip("\r\n").partition("\n")[0]
    delimiter = next((sign for sign in "\t;" if sign in first_line and "," not in first_line), ",")
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(io.StringIO(file.text, newline=""), strict=True, delimiter=delimiter)
    rows: list[tuple[str, object]] = []
    header: list[str] = []
    try:
        for fields in reader:
            place = f"line {reader.line_num}"
            if not fields:
                continue
            if not header:
                header = [name.strip() for name in fields]
                continue
            if len(fields) != len(header):
                raise BadInputError(
                    f"{place} has {len(fields)} fields, the first line {len(header)}", where=str(path), mend=expected
                )
            rows.append((place, dict(zip(header, fields, strict=True))))
    except csv.Error as error:
        raise BadInputError(
            f"line {reader.line_num} is not valid CSV: {error}", where=str(path), mend=expected
        ) from error
    if not header:
        raise BadInputError("the file is empty", where=str(path), mend=expected)
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise BadInputError(f"the column {twice[0][:40]!r} is there twice", where=str(path), mend="Rename one of them")
    return Objects(
        path,
        tuple(rows),
        "table",
        encoding="utf-8-sig" if file.encoding == "utf-8" else file.encoding,
        delimiter=delimiter,
        columns=tuple(header),
        notes=file.notes,
    )


def read_parquet(data: bytes, path: Path) -> Objects:
    """Return the rows of a Parquet file.

    Raises:
        EnvironmentProblemError: pyarrow is missing, or too old to be given a file from elsewhere.
        BadInputError: the file cannot be read.
    """
    if not data.endswith(PARQUET) or len(data) < 2 * len(PARQUET):
        raise _not_whole(path, "it has no footer")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise EnvironmentProblemError(
            "Parquet needs pyarrow, which is not installed",
            where=str(path),
            mend=f"pip install 'quail-audit[parquet]', or convert it where pandas reads Parquet: {as_json_lines(path)}",
        ) from error
    if tuple(int(part) for part in pyarrow.__version__.split(".")[:3] if part.isdecimal()) < OLDEST_PYARROW:
        raise EnvironmentProblemError(
            f"pyarrow {pyarrow.__version__} may run code that a file holds",
            where=str(path),
            mend="pip install 'quail-audit[parquet]'",
        )
    try:
        table: Any = pyarrow.parquet.read_table(io.BytesIO(data))
        found = table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        raise _not_whole(path, first_line(error)) from error
    rows = tuple((f"row {number}", row) for number, row in enumerate(found, start=1))
    return Objects(path, rows, "parquet", columns=tuple(table.column_names))


def _not_whole(path: Path, why: str) -> BadInputError:
    return BadInputError(
        f"the file is not whole Parquet: {why}",
        where=str(path),
        mend="Copy it anew from where it came, or convert it there to JSON lines",
    )


def as_json_lines(path: Path, new: str = "", *, reader: str = "read_parquet") -> str:
    """Return the command that writes a table as JSON lines with pandas.

    Args:
        path: the table.
        new: the new file; empty: the same name with .jsonl.
        reader: pandas' function that reads it.
    """
    read, written = (json.dumps(name) for name in (str(path), new or new_name(path)))
    program = f'import pandas; pandas.{reader}({read}).to_json({written}, orient="records", lines=True)'
    return f"python3 -c {shlex.quote(program)}"

"""Hold what a data file holds, whatever its format: objects, each with its place in the file."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# How a one-line program would read the file; "": no line of Python can say it shortly.
Layout = Literal["lines", "list", "table", "parquet", ""]


@dataclass(frozen=True)
class Objects:
    """The objects of a file: rows as JSON values, not yet known to be rows.

    Attributes:
        path: the file.
        rows: (place, value) in order; a place is "line 3" or "row 3".
        layout: see Layout.
        inside: the key of the list of rows, if the file is one object around a list.
        encoding: Python's name for a text's encoding.
        delimiter: between the fields of a table.
        columns: a table's columns; empty for other files.
        notes: notes for the reader of the report.
    """

    path: Path
    rows: tuple[tuple[str, object], ...]
    layout: Layout
    inside: str | None = None
    encoding: str = "utf-8"
    delimiter: str = ","
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def rewritten(self, row: str = "r", *, kept: str = "") -> str:
        """Return the command that writes the file anew as JSON lines; empty if no one line can.

        The file keeps its name if that is .json or .jsonl; the old one stays beside it as NAME.old.

        Args:
            row: a Python expression of `r`, an object of the file, for what it becomes.
            kept: a Python expression of `r` for whether it stays; empty: all do.
        """
        if not self.layout:
            return ""
        old = f"{self.path}.old"
        new = new_name(self.path)
        source = f"open(0, encoding={json.dumps(self.encoding)})"
        opened = f"< {shlex.quote(old)} "
        imports, rows = "json", ""
        match self.layout:
            case "lines":
                rows = f"map(json.loads, filter(str.strip, {source}))"
            case "list":
                inside = "" if self.inside is None else f"[{json.dumps(self.inside)}]"
                rows = f"json.load({source}){inside}"
            case "table":
                delimiter = "" if self.delimiter == "," else f", delimiter={json.dumps(self.delimiter)}"
                imports, rows = "csv, json", f"csv.DictReader({source}{delimiter})"
            case "parquet":
                imports, opened = "json, pandas", ""
                rows = f'pandas.read_parquet({json.dumps(old)}).to_dict("records")'
        program = shlex.quote(
            f"import {imports}; [print(json.dumps({row})) for r in {rows}{f' if {kept}' if kept else ''}]"
        )
        unpacked = f"gunzip -c {opened}| " if self.path.suffix == ".gz" else ""
        return (
            f"mv {shlex.quote(str(self.path))} {shlex.quote(old)} && "
            f"{unpacked}python3 -c {program} {'' if unpacked else opened}> {shlex.quote(new)}"
        )


def new_name(path: Path) -> str:
    """Return the path that the file's rows have as JSON lines."""
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    return str(plain if plain.suffix in (".json", ".jsonl", ".ndjson") else plain.with_suffix(".jsonl"))

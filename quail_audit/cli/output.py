"""Open the stream that results go to; name the formats that they have."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO

ComparisonFormat = Literal["text", "markdown", "json"]
OutputFormat = Literal[
    "text", "json", "jsonl", "markdown", "html", "junit", "sarif", "csv", "csv-metrics", "csv-samples"
]


@contextmanager
def open_results(output: Path | None) -> Iterator[TextIO]:
    """Open stdout for results, or a file that takes its place once it is whole."""
    from quail_audit.core.writing import whole_file

    if output is None:
        yield sys.stdout
    else:
        with whole_file(output) as file:
            yield file

"""Read a data folder: MUSE's layout (arXiv 2407.06460), *.jsonl, or classifiers' sets."""

from __future__ import annotations

from pathlib import Path

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.data.rows import (
    PLAIN_TEXT,
    PROMPT_AND_TRUTH,
    QUESTION_AND_ANSWER,
    Columns,
    Form,
    R,
    read_csv_rows,
    read_json_rows,
    read_jsonl_rows,
)
from quail_audit.engine.forgetting.data.types import (
    LABELLED_SETS,
    SPLITS,
    Continuation,
    ForgettingData,
    Labelled,
    LabelledSet,
    Questions,
    Row,
    Split,
)
from quail_audit.schema.layout import CONTINUATIONS, DATA_NAMES, EXAMPLES, QUESTIONS, TEXTS


def read_folder(
    folder: Path,
    max_samples: int | None = None,
    columns: Columns = Columns(),  # noqa: B008 - frozen
) -> ForgettingData:
    """Return what a folder holds, even if there is nothing to measure in it.

    Raises:
        BadInputError: a file that cannot be used, or the same samples given twice.
    """
    lines: dict[str, tuple[Row, ...]] = {of: _read_lines(folder / f"{of}.jsonl", columns) for of in LABELLED_SETS}
    continuations: dict[Split, tuple[Continuation, ...]] = {}
    questions: dict[Split, Questions] = {}
    texts: dict[str, tuple[str, ...]] = {}
    for split in SPLITS:
        if found := _read_named(folder, CONTINUATIONS, split, PROMPT_AND_TRUTH, lines[split]):
            continuations[split] = found[:max_samples]
        if asked := _read_named(folder, QUESTIONS, split, QUESTION_AND_ANSWER, lines[split]):
            examples = _read_named(folder, EXAMPLES, split, QUESTION_AND_ANSWER)
            questions[split] = Questions(asked[:max_samples], examples)
    for name in DATA_NAMES:
        if passages := _read_named(folder, TEXTS, name, PLAIN_TEXT, lines.get(name, ())):
            texts[name] = tuple(passage.text for passage in passages[:max_samples])
    labelled: dict[LabelledSet, tuple[Labelled, ...]] = {}
    for of in LABELLED_SETS:
        if rows := _read_labelled(folder, of, columns, lines[of]):
            labelled[of] = rows[:max_samples]
    return ForgettingData(folder, continuations, questions, texts, labelled)


def _read_lines(path: Path, columns: Columns) -> tuple[Row, ...]:
    return read_jsonl_rows(path, columns) if path.exists() else ()


def _read_labelled(folder: Path, of: LabelledSet, columns: Columns, lines: tuple[Row, ...]) -> tuple[Labelled, ...]:
    rows = tuple(row for row in lines if isinstance(row, Labelled))
    table = folder / f"{of}.csv"
    if not table.exists():
        return rows
    if rows:
        raise BadInputError(
            f"the same samples are given twice: {of}.csv and {of}.jsonl", where=str(folder), mend="Keep one of them"
        )
    return read_csv_rows(table, columns)


def _read_named(folder: Path, template: str, name: str, form: Form[R], lines: tuple[Row, ...] = ()) -> tuple[R, ...]:
    """Return the rows of a part, from the one file that has it; empty if none has."""
    files = [path for alias in DATA_NAMES[name] if (path := folder / template.format(alias)).exists()]
    found = {str(path.relative_to(folder)): read_json_rows(path, form) for path in files}
    if of_form := tuple(row for row in lines if isinstance(row, form.model)):
        found[f"{name}.jsonl"] = of_form
    if len(found) > 1:
        raise BadInputError(
            f"the same samples are given twice: {' and '.join(found)}", where=str(folder), mend="Keep one of them"
        )
    return next(iter(found.values()), ())

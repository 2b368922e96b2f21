"""Read a data folder: MUSE's layout (arXiv 2407.06460), or one file a set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.data.population import read_population
from quail_audit.engine.forgetting.data.rows import Rows, read_part, read_rows
from quail_audit.engine.forgetting.data.spellings import PLAIN_TEXT, PROMPT_AND_TRUTH, QUESTIONS, Columns, Form, R
from quail_audit.engine.forgetting.data.types import (
    LABELLED_SETS,
    SPLITS,
    Continuation,
    ForgettingData,
    Kind,
    Labelled,
    LabelledSet,
    Questions,
    Row,
    Split,
)
from quail_audit.schema import layout

QUESTION_AND_ANSWER = QUESTIONS[0]
Read = Mapping[str, Rows[Row]]  # the rows of each file of a set, by its name


def read_folder(
    folder: Path,
    columns: Columns = Columns(),  # noqa: B008 - frozen
    population: int | None = None,
) -> ForgettingData:
    """Return what a folder holds, even if there is nothing to measure in it.

    Args:
        folder: the folder.
        columns: see measurable.read_data.
        population: items to forget in all, of each kind that there is; None: as the folder's population.json says.

    Raises:
        QuailError: a file that cannot be used, or the same samples given twice.
    """
    notes: list[str] = []
    files: dict[str, Read] = {of: _read_files(folder, of, columns, notes) for of in LABELLED_SETS}
    continuations: dict[Split, tuple[Continuation, ...]] = {}
    questions: dict[Split, Questions] = {}
    to_forget: dict[Kind, int] = {}  # items in the files
    texts: dict[str, tuple[str, ...]] = {}
    for split in SPLITS:
        if found := _read_named(folder, layout.CONTINUATIONS, split, PROMPT_AND_TRUTH, files[split], notes):
            continuations[split] = found
            if split == "forget":
                to_forget["verbmem"] = len(found)
        if asked := _read_named(folder, layout.QUESTIONS, split, QUESTION_AND_ANSWER, files[split], notes):
            examples = _read_named(folder, layout.EXAMPLES, split, QUESTION_AND_ANSWER, {}, notes)
            questions[split] = Questions(asked, examples)
            if split == "forget":
                to_forget["knowmem"] = len(asked)
    for name in layout.DATA_NAMES:
        if passages := _read_named(folder, layout.TEXTS, name, PLAIN_TEXT, files.get(name, {}), notes):
            texts[name] = tuple(passage.text for passage in passages)
    labelled: dict[LabelledSet, tuple[Labelled, ...]] = {}
    for of in LABELLED_SETS:
        if rows := _only(folder, _of_model(files[of], Labelled)):
            labelled[of] = rows
            if of == "forget":
                to_forget["labelled"] = len(rows)
    return ForgettingData(
        folder,
        continuations,
        questions,
        texts,
        labelled,
        notes=tuple(notes),
        population=read_population(folder, to_forget, population),
    )


def _read_files(folder: Path, of: str, columns: Columns, notes: list[str]) -> Read:
    found = {name: read_rows(path, columns) for name in layout.spelled_names(of) if (path := folder / name).exists()}
    for rows in found.values():
        notes += rows.notes
    return found


def _read_named(folder: Path, template: str, name: str, form: Form[R], read: Read, notes: list[str]) -> tuple[R, ...]:
    """Return the rows of a part, from the one file that has it; empty if none has."""
    names = [each for alias in layout.DATA_NAMES[name] for each in layout.spelled_names(template.format(alias))]
    parts = {each: read_part(path, form) for each in names if (path := folder / each).exists()}
    for part in parts.values():
        notes += part.notes
    return _only(folder, {each: part.rows for each, part in parts.items()} | _of_model(read, form.model))


def _of_model(read: Read, model: type[R]) -> dict[str, tuple[R, ...]]:
    every = {name: tuple(row for row in found.rows if isinstance(row, model)) for name, found in read.items()}
    return {name: rows for name, rows in every.items() if rows}


def _only(folder: Path, found: Mapping[str, tuple[R, ...]]) -> tuple[R, ...]:
    if len(found) > 1:
        raise BadInputError(
            f"the same samples are given twice: {' and '.join(found)}", where=str(folder), mend="Keep one of them"
        )
    return next(iter(found.values()), ())

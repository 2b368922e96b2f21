"""Reads a folder of forgetting data: MUSE's layout (arXiv 2407.06460), forget.jsonl / retain.jsonl, classifiers' sets.

Not here: how a file of rows is read (rows.py), whether the data fits the model (labels.py), and what is done with it
(the metrics).
"""

from __future__ import annotations

from dataclasses import replace
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
from quail_audit.engine.forgetting.metrics.interface import (
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
from quail_audit.engine.forgetting.metrics.registry import known_metrics, metric_named
from quail_audit.schema.layout import CONTINUATIONS, DATA_NAMES, EXAMPLES, QUESTIONS, TEXTS

__all__ = ["Columns", "ForgettingData", "read_data", "read_folder"]


def read_data(
    path: str | Path,
    *,
    metrics: tuple[str, ...] | None = None,
    max_samples: int | None = None,
    columns: Columns = Columns(),  # noqa: B008 - frozen
) -> ForgettingData:
    """Read a data folder, as far as it goes.

    Args:
        path: the folder.
        metrics: those to measure; None: every one the folder has data for.
        max_samples: at most so many samples of each kind, the first ones; in-context examples are not cut.
        columns: what classifiers' data calls its text and its label.

    Raises:
        UsageError: a metric that Quail does not know.
        BadInputError: no such folder, a file that cannot be used, the same samples given twice, nothing to measure, or
            nothing for a metric that was asked for.
    """
    asked = None if metrics is None else tuple(metric_named(name) for name in metrics)
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "no such folder"
        raise BadInputError(f"the data {what}" if folder.exists() else what, where=str(path), mend=_expected())
    data = read_folder(folder, max_samples, columns)
    samples = {metric.name: metric.samples(data) for metric in known_metrics()}
    if asked is not None:
        for metric in asked:
            if not samples[metric.name]:
                raise BadInputError(
                    f"no data for the metric {metric.name}", where=str(path), mend=f"It needs {metric.needs}"
                )
        wanted, tasks = {metric.name for metric in asked}, {metric.task for metric in asked}
        skipped = {
            metric.name: "not asked for"
            for metric in known_metrics()
            if metric.name not in wanted and metric.task in tasks
        }
    else:
        tasks = {metric.task for metric in known_metrics() if samples[metric.name]}
        skipped = {
            metric.name: f"no {metric.needs}"
            for metric in known_metrics()
            if not samples[metric.name] and metric.task in tasks
        }
    to_measure = {name: count for name, count in samples.items() if count and name not in skipped}
    if not to_measure:
        raise BadInputError("nothing to measure in this folder", where=str(path), mend=_expected())
    notes = tuple(_note_on_examples(split) for split in SPLITS if _lacks_examples(data, split, to_measure))
    return replace(data, samples=to_measure, skipped=skipped, notes=notes)


def _expected() -> str:
    return "Expected a folder with any of: " + "; ".join(dict.fromkeys(metric.needs for metric in known_metrics()))


def read_folder(
    folder: Path,
    max_samples: int | None = None,
    columns: Columns = Columns(),  # noqa: B008 - frozen
) -> ForgettingData:
    """What a folder holds, whether or not there is anything to measure in it.

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
    """The rows of a part, from the one file that has it; empty where none has."""
    files = [path for alias in DATA_NAMES[name] if (path := folder / template.format(alias)).exists()]
    found = {str(path.relative_to(folder)): read_json_rows(path, form) for path in files}
    if of_form := tuple(row for row in lines if isinstance(row, form.model)):
        found[f"{name}.jsonl"] = of_form
    if len(found) > 1:
        raise BadInputError(
            f"the same samples are given twice: {' and '.join(found)}", where=str(folder), mend="Keep one of them"
        )
    return next(iter(found.values()), ())


def _lacks_examples(data: ForgettingData, split: Split, samples: dict[str, int]) -> bool:
    return f"knowmem_{split}" in samples and not data.questions[split].examples


def _note_on_examples(split: Split) -> str:
    return f"knowmem_{split} was asked without in-context examples: the data has no knowmem/{split}_qa_icl.json"

"""Find the metrics that a data folder and a model allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.model.architecture import model_without_weights
from quail_audit.engine.checkpoints.model.model_class import is_classifier, why_not_asked
from quail_audit.engine.forgetting.data.folder import read_folder
from quail_audit.engine.forgetting.data.labels import is_numbered, label_names, list_words, match_label
from quail_audit.engine.forgetting.data.names import list_found, note_unread, put_into_folder, suggest_names
from quail_audit.engine.forgetting.data.order import draw_rows
from quail_audit.engine.forgetting.data.spellings import Columns
from quail_audit.engine.forgetting.data.types import SPLITS, ForgettingData, Labelled, Split
from quail_audit.engine.forgetting.metrics.interface import Task
from quail_audit.engine.forgetting.metrics.registry import known_metrics, metric_named

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint


def read_data(
    path: str | Path,
    *,
    metrics: tuple[str, ...] | None = None,
    max_samples: int | None = None,
    columns: Columns = Columns(),  # noqa: B008 - frozen
    population: int | None = None,
    at_random: bool = False,
    seed: int = 0,
) -> ForgettingData:
    """Read a data folder, and say what can be measured with it.

    Args:
        path: the folder.
        metrics: the metrics to measure; None: every metric that the folder has data for.
        max_samples: the most samples of each kind, drawn at random; in-context examples are not cut.
        columns: the names of the text and the label columns in classifiers' data.
        population: items to forget in all, of each kind that there is, measured or not; None: as the folder's
            population.json says.
        at_random: rows are in an order drawn at random even if all of them are asked, else in that of the file.
        seed: of the random order.

    Raises:
        UsageError: a metric that Quail does not know, or a population of fewer items than the data has.
        BadInputError: no such folder, a file that cannot be used, the same samples given twice, nothing to measure, or
            nothing for a metric that was asked for.
    """
    asked = None if metrics is None else tuple(metric_named(name) for name in metrics)
    folder = Path(path)
    if not folder.is_dir():
        if folder.exists():
            raise BadInputError("--data expects a folder, got a file", where=str(path), mend=put_into_folder(folder))
        raise BadInputError("no such folder", where=str(path), mend=_expected_data())
    data = read_folder(folder, columns, population)
    if at_random or max_samples is not None:
        data = draw_rows(data, max_samples, seed)
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
        found = f": it holds {list_found(folder)}" if (mend := suggest_names(folder)) else ""
        raise BadInputError(f"nothing to measure in this folder{found}", where=str(path), mend=mend or _expected_data())
    notes = tuple(_note_on_examples(split) for split in SPLITS if _lacks_examples(data, split, to_measure))
    return replace(data, samples=to_measure, skipped=skipped, notes=(*data.notes, *note_unread(folder), *notes))


def _expected_data() -> str:
    return "Expected a folder with any of: " + "; ".join(dict.fromkeys(metric.needs for metric in known_metrics()))


def _lacks_examples(data: ForgettingData, split: Split, samples: dict[str, int]) -> bool:
    return f"knowmem_{split}" in samples and not data.questions[split].examples


def _note_on_examples(split: Split) -> str:
    return f"knowmem_{split} was asked without in-context examples: the data has no knowmem/{split}_qa_icl.json"


EXPECTED: Mapping[Task, str] = {
    "classification": "Give a folder with forget, retain, test or holdout as .csv or .jsonl, in each row a text and "
    "a label; --text-column and --label-column name other columns than {text, label}",
    "language modelling": "Give a folder in MUSE's layout, or forget.jsonl with {text}, {prompt, completion} or "
    "{question, answer}",
}


_MODELS: Mapping[Task, str] = {"classification": "a classifier", "language modelling": "a language model"}


def task_of(checkpoint: Checkpoint) -> Task:
    """Return the task of a checkpoint's model."""
    return "classification" if is_classifier(checkpoint.config) else "language modelling"


def fit_data(data: ForgettingData, *checkpoints: Checkpoint) -> ForgettingData:
    """Return the data as these checkpoints need it: metrics of their task, and labels by the model's own names.

    A label is matched by name, then by name in another case, then by its number. If the model calls its labels LABEL_0,
    LABEL_1, …, only numbers can be matched.

    Args:
        data: the data as read.
        checkpoints: checkpoints of one model; the first one's names count.

    Raises:
        BadInputError: the data is for the other task, a label is none of the model's, the checkpoints name their
            classes differently, or the model has no classes to tell apart.
    """
    task = task_of(checkpoints[0])
    tasks = {metric.name: metric.task for metric in known_metrics()}
    samples = {name: count for name, count in data.samples.items() if tasks[name] == task}
    architecture = checkpoints[0].layout.architecture or task
    if (data.samples and not samples) or data_task(data) not in (None, task):
        other: Task = "language modelling" if task == "classification" else "classification"
        what = "this data is" if data_task(data) is not None else "the metrics that were asked for are"
        raise BadInputError(
            f"{what} for {_MODELS[other]}, but {checkpoints[0].source} is {_MODELS[task]} ({architecture})",
            where=str(data.folder),
            mend=EXPECTED[task],
        )
    if task == "language modelling":
        for checkpoint in checkpoints:
            _refuse_unasked(checkpoint)
    skipped = {name: why for name, why in data.skipped.items() if tasks[name] == task}
    skipped |= {name: f"not for {_MODELS[task]}" for name in data.samples if tasks[name] != task}
    data = replace(data, samples=samples, skipped=skipped)
    return data if task == "language modelling" else _fit_labels(checkpoints, data)


def _refuse_unasked(checkpoint: Checkpoint) -> None:
    base = checkpoint.adapter_of or checkpoint
    if why := why_not_asked(model_without_weights(base.config, base.files.tensors, str(base.folder))):
        raise BadInputError(
            why,
            where=f"{base.folder}/config.json",
            mend="Leave --data out: all its layers are measured by their weights",
        )


def data_task(data: ForgettingData) -> Task | None:
    """Return the task that the folder is for; None if it is for both, or for neither."""
    for_language = bool(data.continuations or data.questions or data.texts)
    if for_language == bool(data.labelled):
        return None
    return "language modelling" if for_language else "classification"


def _fit_labels(checkpoints: tuple[Checkpoint, ...], data: ForgettingData) -> ForgettingData:
    first = checkpoints[0]
    names = label_names(first.config, str(first.folder))
    for other in checkpoints[1:]:
        theirs = label_names(other.config, str(other.folder))
        if theirs != names and not is_numbered(theirs) and not is_numbered(names):
            raise BadInputError(
                f"its labels are {list_words(theirs)}, those of {first.source} {list_words(names)}",
                where=str(other.folder),
                mend="Both must be the same model, before and after unlearning",
            )
    given = sorted({row.label for rows in data.labelled.values() for row in rows})
    known = {label: match_label(label, names) for label in given}
    if unknown := [label for label, name in known.items() if name is None]:
        by_number = " (the model names none of its own, so only numbers can be matched)" if is_numbered(names) else ""
        raise BadInputError(
            f"the label{'s' if len(unknown) > 1 else ''} {list_words(unknown)} {'are' if len(unknown) > 1 else 'is'} "
            f"none of the model's: {list_words(names)}{by_number}",
            where=str(data.folder),
            mend=f"Name the labels in the data as id2label of {printable(str(first.folder))}/config.json does, or "
            "mend that",
        )
    labelled = {
        of: tuple(Labelled(text=row.text, label=known[row.label] or "") for row in rows)
        for of, rows in data.labelled.items()
    }
    return replace(data, labelled=labelled, labels=names)

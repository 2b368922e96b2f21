"""Fits a data folder to the checkpoints it is asked of: their task, and the names of their labels.

Not here: reading the folder (data.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.architecture import is_classifier
from quail_audit.engine.forgetting.metrics.interface import ForgettingData, Labelled, Task
from quail_audit.engine.forgetting.metrics.registry import known_metrics

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint

MOST_NAMED = 6
EXPECTED: Mapping[Task, str] = {
    "classification": "Give a folder with forget, retain, test or holdout as .csv or .jsonl, in each row a text and "
    "a label",
    "language modelling": "Give a folder in MUSE's layout, or forget.jsonl with {text}, {prompt, completion} or "
    "{question, answer}",
}
_MODELS: Mapping[Task, str] = {"classification": "a classifier", "language modelling": "a language model"}


def task_of(checkpoint: Checkpoint) -> Task:
    """What a checkpoint's model does."""
    return "classification" if is_classifier(checkpoint.config) else "language modelling"


def fit_data(data: ForgettingData, *checkpoints: Checkpoint) -> ForgettingData:
    """The data as these checkpoints can be asked: metrics of their task, and labels by the model's own names.

    A label is matched by name, then by name in another case, then by its number. Where the data names its labels and
    the model calls its own LABEL_0, LABEL_1, … only numbers can be matched.

    Args:
        data: as read.
        checkpoints: of one model; the first one's names count.

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
    skipped = {name: why for name, why in data.skipped.items() if tasks[name] == task}
    skipped |= {name: f"not for {_MODELS[task]}" for name in data.samples if tasks[name] != task}
    data = replace(data, samples=samples, skipped=skipped)
    return data if task == "language modelling" else _with_labels_of(checkpoints, data)


def data_task(data: ForgettingData) -> Task | None:
    """What the folder is for; None where it is for both, or for neither."""
    for_language = bool(data.continuations or data.questions or data.texts)
    if for_language == bool(data.labelled):
        return None
    return "language modelling" if for_language else "classification"


def label_names(config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """A classifier's names for its classes, by index.

    Raises:
        BadInputError: it has fewer than two, two of one name, or its config.json numbers them otherwise than from 0.
    """
    where = f"{where}/config.json"
    found = config.get("id2label")
    if found is None:
        count = config.get("num_labels", 2)
        names = tuple(f"LABEL_{i}" for i in range(count if isinstance(count, int) else 0))
    else:
        numbered = {str(key): str(value) for key, value in found.items()} if isinstance(found, Mapping) else {}
        names = tuple(numbered.get(str(i), "") for i in range(len(numbered)))
    if len(names) < 2 or config.get("problem_type") in ("regression", "multi_label_classification"):
        raise BadInputError(
            "the model gives no single label of several",
            where=where,
            mend="Quail measures classifiers with two labels or more, one of which is right",
        )
    if "" in names or len(set(names)) < len(names):
        raise BadInputError("id2label should name each class once, from 0 on", where=where, mend="Mend id2label")
    return names


def _with_labels_of(checkpoints: tuple[Checkpoint, ...], data: ForgettingData) -> ForgettingData:
    first = checkpoints[0]
    names = label_names(first.config, str(first.folder))
    for other in checkpoints[1:]:
        theirs = label_names(other.config, str(other.folder))
        if theirs != names and not _are_numbers(theirs) and not _are_numbers(names):
            raise BadInputError(
                f"its labels are {_listed(theirs)}, those of {first.source} {_listed(names)}",
                where=str(other.folder),
                mend="Both must be the same model, before and after unlearning",
            )
    given = sorted({row.label for rows in data.labelled.values() for row in rows})
    known = {label: _matched(label, names) for label in given}
    if unknown := [label for label, name in known.items() if name is None]:
        by_number = " (the model names none of its own, so only numbers can be matched)" if _are_numbers(names) else ""
        raise BadInputError(
            f"the label{'s' if len(unknown) > 1 else ''} {_listed(unknown)} {'are' if len(unknown) > 1 else 'is'} none "
            f"of the model's: {_listed(names)}{by_number}",
            where=str(data.folder),
            mend=f"Name the labels in the data as id2label of {printable(str(first.folder))}/config.json does, or "
            "mend that",
        )
    labelled = {
        of: tuple(Labelled(text=row.text, label=known[row.label] or "") for row in rows)
        for of, rows in data.labelled.items()
    }
    return replace(data, labelled=labelled, labels=names)


def _matched(label: str, names: tuple[str, ...]) -> str | None:
    if label in names:
        return label
    alike = [name for name in names if name.casefold() == label.casefold()]
    if len(alike) == 1:
        return alike[0]
    if label.isascii() and label.isdecimal() and len(label) < 10 and int(label) < len(names):
        return names[int(label)]
    return None


def _are_numbers(names: tuple[str, ...]) -> bool:
    """Whether they are those that transformers gives where nobody named them."""
    return all(name == f"LABEL_{i}" for i, name in enumerate(names))


def _listed(names: tuple[str, ...] | list[str]) -> str:
    few = ", ".join(printable(name, limit=40) for name in names[:MOST_NAMED])
    return f"{few}, …" if len(names) > MOST_NAMED else few

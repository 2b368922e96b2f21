"""Define the rows of a data folder: continuations, questions, passages, labelled texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

Split = Literal["forget", "retain"]


SPLITS: tuple[Split, ...] = ("forget", "retain")


LabelledSet = Literal["forget", "retain", "test", "holdout"]


LABELLED_SETS: tuple[LabelledSet, ...] = ("forget", "retain", "test", "holdout")


Kind = Literal[
    "verbmem", "knowmem", "labelled"
]  # of what there is to forget: continuations, questions, classified texts


KINDS: tuple[Kind, ...] = ("verbmem", "knowmem", "labelled")


def _refuse_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def refuse_surrogates(text: str) -> str:
    """Return a text that has none; raise ValueError if it has one."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("has a lone surrogate, which is not a character")
    return text


Text = Annotated[str, AfterValidator(_refuse_blank), AfterValidator(refuse_surrogates)]


TextOrNothing = Annotated[str, AfterValidator(refuse_surrogates)]


class Row(BaseModel):
    """One row of a data file: strings only, none of them blank but a classifier's text."""

    model_config = ConfigDict(frozen=True, strict=True)


class Continuation(Row):
    """A text cut in two: the model is given the prompt, the truth is how it went on."""

    prompt: Text
    truth: Text


class QuestionAnswer(Row):
    """A question and its answer.

    Attributes:
        paraphrases: the question in other words, none of them blank, alike, or the question itself.
    """

    question: Text
    answer: Text
    paraphrases: tuple[Text, ...] = ()


class Passage(Row):
    text: Text


class Labelled(Row):
    """A text for a classifier; it may be empty, as a deployed classifier is given such texts too.

    Attributes:
        label: the label's name; the model's own name once the data is fitted to a model (measurable.fit_data).
    """

    text: TextOrNothing
    label: Text


Part = Literal["continuations", "questions", "texts", "labelled"]


@dataclass(frozen=True)
class Places:
    """The places in a file of the rows that are asked, from 0, in the order asked, and how many rows the file has."""

    rows: Sequence[int]
    of: int


@dataclass(frozen=True)
class Questions:
    """Questions of one split, and those that are answered in every prompt to show the form of an answer."""

    asked: tuple[QuestionAnswer, ...]
    examples: tuple[QuestionAnswer, ...]


@dataclass(frozen=True)
class ForgettingData:
    """The content of a data folder, by split. Whatever the folder lacks is absent from the mappings.

    Attributes:
        folder: the folder; a metric of another package may read files of its own there.
        continuations: prompts and truths for VerbMem.
        questions: questions and answers for KnowMem.
        texts: texts of "forget", "retain" and "holdout" (never trained on), for PrivLeak and the losses.
        labelled: texts for classifiers. The label of a forget row is the one that the model learned, and is to lose.
        labels: the model's own names for its classes, by index; empty until the data is fitted to a classifier.
        samples: metric -> how many samples it scores, for the metrics to measure, in the order they are measured.
        skipped: metric -> why it is not measured.
        notes: what a reader of the report should know about the data.
        population: kind -> how many items there are to forget in all, if that is declared; those in the files are then
            drawn from so many.
        places: "part/set", such as "texts/forget" -> where the rows were in their file, if not in its order.
    """

    folder: Path
    continuations: Mapping[Split, tuple[Continuation, ...]]
    questions: Mapping[Split, Questions]
    texts: Mapping[str, tuple[str, ...]]
    labelled: Mapping[LabelledSet, tuple[Labelled, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    samples: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    population: Mapping[Kind, int] = field(default_factory=dict)
    places: Mapping[str, Places] = field(default_factory=dict)

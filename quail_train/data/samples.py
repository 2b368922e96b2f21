"""Read a data folder's forget and retain sets as training samples.

The folder is read as the audit reads it (quail_audit.engine.forgetting.data.folder), plus raw/forget.txt and
raw/retain.txt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quail_audit.core.errors import BadInputError
from quail_audit.engine.forgetting.data.files.text_files import TextFile, read_text
from quail_audit.engine.forgetting.data.folder import read_folder
from quail_audit.engine.forgetting.data.names import suggest_names
from quail_audit.engine.forgetting.data.spellings import Columns
from quail_audit.engine.forgetting.data.types import SPLITS, ForgettingData, Questions, Split
from quail_audit.engine.forgetting.measurable import fit_data
from quail_train.objectives.terms import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from quail_audit.engine.checkpoints.pair import Pair

PAIRS_IN_A_ROW = 11  # as many as KnowMem shows: ten examples and the question
EXPECTED = (
    "Expected a folder with raw/forget.txt, privleak/forget.json, verbmem/forget.json, knowmem/forget_qa.json or "
    "forget.jsonl, and the same of the retain set"
)


@dataclass(frozen=True)
class TrainingSample:
    """One training sequence: token ids, and the labels that count in the loss (IGNORED elsewhere).

    Attributes:
        labels: labels of the tokens; empty for a classifier.
        number: place among the forget samples, then the retain samples.
        asks: True if it is questions and their answers, in KnowMem's form.
        label: its class, for a classifier.
        other_label: another class, drawn at random, that the relabel objective teaches instead.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    number: int = 0
    asks: bool = False
    label: int | None = None
    other_label: int = IGNORED

    @property
    def counted(self) -> int:
        """The number of predictions that count in the loss."""
        return sum(label != IGNORED for label in self.labels[1:]) if self.label is None else 1


@dataclass(frozen=True)
class TrainingData:
    """Samples of both sets; the retain set may be empty.

    Attributes:
        notes: notes for the reader of the run.
    """

    forget: tuple[TrainingSample, ...]
    retain: tuple[TrainingSample, ...]
    notes: tuple[str, ...] = ()

    def samples_for_original(self, asks_forget: bool, asks_retain: bool) -> tuple[TrainingSample, ...]:
        """Return the samples that the original is asked about; with any, the forget samples are the first."""
        if not (asks_forget or asks_retain):
            return ()
        return (*self.forget, *(self.retain if asks_retain else ()))


def read_training_data(
    path: str,
    tokenizer: PreTrainedTokenizerBase,
    pair: Pair | None = None,
    *,
    max_length: int,
    retain_needed_by: str | None,
    columns: Columns = Columns(),  # noqa: B008 - frozen
) -> TrainingData:
    """Read a folder's forget and retain sets.

    The texts of a set are raw/SPLIT.txt, packed paragraph by paragraph into samples of at most max_length tokens; else
    the rows of privleak or of {text} lines; else the rows of verbmem or of {prompt, completion} lines, of which the
    continuation counts. If the set has questions, they are added in KnowMem's form, of which the answers count: as many
    to a sample as max_length has room for, eleven at most.

    Args:
        path: the folder.
        tokenizer: tokenizer of the trained model.
        pair: pair of language models that the data must fit; None: not checked.
        columns: names of the text and label columns, by which data for classifiers is recognized.
        max_length: in tokens; a longer text is cut into several samples.
        retain_needed_by: name of the objective that needs a retain set; None if none is needed.

    Raises:
        BadInputError: no such folder, a file that cannot be used, no forget set, or a missing retain set.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise BadInputError(
            "is a file, not a folder" if folder.exists() else "no such folder", where=path, mend=EXPECTED
        )
    found = read_folder(folder, columns=columns)
    if pair is not None:
        found = fit_data(found, pair.original)
    encode = _Encoder(tokenizer, max_length)
    raw = {split: _read_raw(folder, split) for split in SPLITS}
    samples = {split: tuple(_samples(found, split, raw[split], encode)) for split in SPLITS}
    if not samples["forget"]:
        raise BadInputError("holds no forget set", where=path, mend=suggest_names(folder) or EXPECTED)
    if retain_needed_by is not None and not samples["retain"]:
        raise BadInputError(
            f"holds no retain set, which the objective {retain_needed_by} needs",
            where=path,
            mend="Add raw/retain.txt, or choose an objective without a retain term: ga, npo, simnpo",
        )
    return number_samples(samples["forget"], samples["retain"], tuple(_notes(found, raw, samples)))


def number_samples(
    forget: Sequence[TrainingSample], retain: Sequence[TrainingSample], notes: tuple[str, ...]
) -> TrainingData:
    """Return both sets, each sample with its number."""
    every = [replace(sample, number=i) for i, sample in enumerate((*forget, *retain))]
    return TrainingData(tuple(every[: len(forget)]), tuple(every[len(forget) :]), notes)


def _read_raw(folder: Path, split: Split) -> TextFile | None:
    path = next((path for name in _raw_names(split) if (path := folder / "raw" / name).exists()), None)
    if path is None:
        return None
    raw = read_text(path)
    if not raw.text.strip():
        raise BadInputError("the file is empty", where=str(path), mend=EXPECTED)
    return raw


def _samples(found: ForgettingData, split: Split, raw: TextFile | None, encode: _Encoder) -> Iterator[TrainingSample]:
    if raw is not None:
        yield from encode.running_text(raw.text)
    elif texts := found.texts.get(split, ()):
        for text in texts:
            yield from encode.whole_text(text)
    else:
        for row in found.continuations.get(split, ()):
            yield encode.parts([(row.prompt, row.truth)], ends=True)
    if split in found.questions:
        yield from encode.questions(_pairs(found.questions[split]))


def _raw_names(split: Split) -> tuple[str, ...]:
    # MUSE's repository trains on retain1 and measures on retain2
    return (f"{split}.txt", f"{split}1.txt") if split == "retain" else (f"{split}.txt",)


def _pairs(questions: Questions) -> list[tuple[str, str]]:
    """Return each question as KnowMem asks it, with the answer that follows it."""
    return [
        (f"Question: {pair.question}\nAnswer: ", f"{pair.answer}\n\n")
        for pair in (*questions.asked, *questions.examples)
    ]


def _notes(
    found: ForgettingData, raw: dict[Split, TextFile | None], samples: dict[Split, tuple[TrainingSample, ...]]
) -> Iterator[str]:
    yield from found.notes
    for file in raw.values():
        yield from file.notes if file is not None else ()
    if len(samples["forget"]) == 1:
        yield "the forget set is one sample: every step sees the same one, and it says little about forgetting"
    if "forget" in found.questions:
        yield (
            "the questions of knowmem are trained on, too: to only measure with them, train on a folder without them "
            "and audit on one with them"
        )


class _Encoder:
    """Turns texts into samples with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        from quail_audit.engine.forgetting.models.quiet import quiet_transformers

        self._tokenizer = tokenizer
        self._quiet = quiet_transformers
        end = tokenizer.eos_token_id
        self._end = [] if end is None else [int(end)]
        before = self._ids("", special=True)
        self._start = before[:-1] if self._end and before[-1:] == self._end and len(before) > 1 else before
        if self._start == self._end:
            self._start = []
        self._room = max(1, max_length - len(self._start) - len(self._end))

    def running_text(self, text: str) -> Iterator[TrainingSample]:
        """Yield samples of as many whole paragraphs as fit; a paragraph that is too long is cut."""
        pending: list[str] = []
        taken = 0
        for paragraph in (part.strip() for part in text.replace("\r\n", "\n").split("\n\n")):
            if not paragraph:
                continue
            size = len(self._ids("\n\n" + paragraph if pending else paragraph))
            if pending and taken + size > self._room:
                yield from self._pieces("\n\n".join(pending), ends=False)
                pending, taken = [], 0
                size = len(self._ids(paragraph))
            pending.append(paragraph)
            taken += size
        if pending:
            yield from self._pieces("\n\n".join(pending), ends=False)

    def whole_text(self, text: str) -> Iterator[TrainingSample]:
        """Yield a text as samples; the last has the end token."""
        yield from self._pieces(text, ends=True)

    def parts(self, parts: Sequence[tuple[str, str]], *, ends: bool) -> TrainingSample:
        """Return prompts and their continuations in one sample; only continuations count. Cut if it is too long."""
        ids, labels = list(self._start), [IGNORED] * len(self._start)
        for prompt, truth in parts:
            asked, answered = self._ids(prompt), self._ids(truth)
            ids += asked + answered
            labels += [IGNORED] * len(asked) + answered
        if ends:
            ids += self._end
            labels += self._end
        kept = self._room + len(self._start) + len(self._end)
        return TrainingSample(tuple(ids[:kept]), tuple(labels[:kept]))

    def questions(self, pairs: Sequence[tuple[str, str]]) -> Iterator[TrainingSample]:
        """Yield samples of as many whole questions with their answers as fit; one that is too long is cut."""
        pending: list[tuple[str, str]] = []
        taken = 0
        for pair in pairs:
            size = sum(len(self._ids(part)) for part in pair)
            if pending and (taken + size > self._room or len(pending) == PAIRS_IN_A_ROW):
                yield replace(self.parts(pending, ends=False), asks=True)
                pending, taken = [], 0
            pending.append(pair)
            taken += size
        if pending:
            yield replace(self.parts(pending, ends=False), asks=True)

    def _pieces(self, text: str, *, ends: bool) -> Iterator[TrainingSample]:
        ids = self._ids(text)
        for start in range(0, len(ids), self._room):
            piece = ids[start : start + self._room]
            last = start + self._room >= len(ids)
            row = tuple(self._start + piece + (self._end if ends and last else []))
            yield TrainingSample(row, row)

    def _ids(self, text: str, *, special: bool = False) -> list[int]:
        with self._quiet():  # it warns about long texts, which are cut here
            return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

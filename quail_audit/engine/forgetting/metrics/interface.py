"""What forgetting data and a metric are, to the rest of Quail and to packages that add metrics.

A package adds metrics through the entry point quail.metrics: a callable that returns a Metric. Imports nothing heavy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, Protocol, TypeVar

from quail_audit.engine.forgetting.data.types import ForgettingData

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from quail_audit.schema.figures import Score

Task = Literal["language modelling", "classification"]


class LanguageModel(Protocol):
    """A model as a metric sees it: text in, text or probabilities out. Batching and memory are its own affair."""

    def continuations(
        self, prompts: Sequence[str], *, max_new_tokens: int, stop_words: Sequence[str] = ()
    ) -> Iterator[tuple[int, str]]:
        """Greedy continuations, each with its prompt's index, in whatever order they are finished.

        Args:
            prompts: texts; the tokenizer adds its special tokens. One that is longer than the model's window less
                max_new_tokens loses its beginning.
            max_new_tokens: at most so many are generated.
            stop_words: a continuation ends before the first of these.
        """
        ...

    def log_probabilities(self, texts: Sequence[str]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Natural logarithms of each token's probability given those before it, each with its text's index.

        float32 [tokens - 1]: the first token has none before it, so a text of one token has an empty array. A text
        longer than the model's window is cut to it.
        """
        ...

    def cut(self, text: str, tokens: int) -> str:
        """The text's first tokens, special ones counted, as text."""
        ...


class Classifier(Protocol):
    """A sequence classifier as a metric sees it."""

    def label_log_probabilities(self, texts: Sequence[str]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Natural logarithms of each class's probability, float32 [classes], each with its text's index.

        In whatever order they are finished. A text longer than the model's window is cut as its tokenizer cuts it.
        """
        ...


# A metric sees the model of its task.
AnyModel = TypeVar("AnyModel", bound="LanguageModel | Classifier")


@dataclass(frozen=True)
class Sample:
    """One scored sample.

    Attributes:
        index: its place in the data file, from 0.
        score: in the metric's own unit.
        prompt, truth, answer: for a person who looks closer; empty where there is none.
        probabilities: of a classifier's labels by name, from 0 to 1, the likeliest first.
    """

    index: int
    score: float
    prompt: str = ""
    truth: str = ""
    answer: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Measured:
    """A metric of one arm.

    Attributes:
        score: its mean, or what stands for it, with its interval.
        values: what recovery is computed from, in the order of the data file, so that arms pair up by sample:
            the scores [samples], unless the metric says otherwise.
    """

    score: Score
    values: npt.NDArray[np.float64]


class Metric(ABC, Generic[AnyModel]):
    """One number that tells how well a model knows a set of texts.

    Attributes:
        task: of the models it measures; AnyModel is LanguageModel, or Classifier.
        name: as on the command line and in reports: "verbmem_forget".
        needs: the data it needs, for people: "verbmem/forget.json".
        generates: whether the model has to write text, which is slow: such metrics are measured last.
    """

    task: ClassVar[Task] = "language modelling"
    name: str
    needs: str
    generates: bool

    @abstractmethod
    def samples(self, data: ForgettingData) -> int:
        """How many samples there are to score; 0 where the data is absent."""

    @abstractmethod
    def measure(self, data: ForgettingData, model: AnyModel, *, seed: int) -> Generator[Sample, None, Measured]:
        """Score every sample, yielding each as soon as it is known. The seed is the bootstrap's."""

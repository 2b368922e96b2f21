"""Define the contract of a metric, Quail's own or a plug-in's, and the models it sees.

A package adds a metric through the entry point group quail.metrics: a callable without arguments that returns a Metric,
which may be the class itself. This module imports nothing heavy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, Protocol, TypeVar

from quail_audit.engine.forgetting.data.types import ForgettingData
from quail_audit.schema.requests import PromptFormat

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from quail_audit.schema.figures import Score

Task = Literal["language modelling", "classification"]


@dataclass(frozen=True)
class Chat:
    """A question and the examples before it, as a chat template is given them.

    Attributes:
        turns: texts of the user and the assistant in turn; the first and the last are the user's.
        in_one: the same as one text, for a template that takes only one turn.
    """

    turns: tuple[str, ...]
    in_one: str


@dataclass(frozen=True, eq=False)
class TokenScores:
    """A model's scores of the tokens of a text, or of a truth after its prompt, given all tokens before each.

    Attributes:
        text: the text or truth as far as it was read, as it is given if it was not cut.
        log_probabilities: float32 [tokens], in nats; a masked token counts as 1e-38.
        is_likeliest: bool [tokens], whether greedy decoding would choose the token; of equals it chooses the first
            by id.
        means, deviations: float32 [tokens], mean and standard deviation of the log-probability of a token drawn from
            the model's own distribution at that place; None if they were not asked for.
    """

    text: str
    log_probabilities: npt.NDArray[np.float32]
    is_likeliest: npt.NDArray[np.bool_]
    means: npt.NDArray[np.float32] | None = None
    deviations: npt.NDArray[np.float32] | None = None

    @property
    def tokens(self) -> int:
        return int(self.log_probabilities.size)

    def part(self, first: int, end: int | None = None) -> TokenScores:
        """Return the scores of some of the tokens, which are the same whether the prompt holds those before or not."""
        means, deviations = (None if each is None else each[first:end] for each in (self.means, self.deviations))
        return replace(
            self,
            log_probabilities=self.log_probabilities[first:end],
            is_likeliest=self.is_likeliest[first:end],
            means=means,
            deviations=deviations,
        )


@dataclass(frozen=True)
class Truth:
    """The truth that a text goes on with after its prompt.

    Attributes:
        prompt: what the model is given.
        text: the truth.
        after: what such a text goes on with after the truth, such as a blank line. It is not scored, but a tokenizer
            may join its beginning with the truth's last token, and models learn it so.
    """

    prompt: str
    text: str
    after: str = ""


class LanguageModel(Protocol):
    """A language model as a metric sees it: text in, text or probabilities out. It batches and bounds memory itself.

    Attributes:
        prompt_format: how questions are asked: "raw", as texts; "chat", through the tokenizer's chat template; "auto",
            both, if it has one.
    """

    prompt_format: PromptFormat

    def chat_prompts(self, chats: Sequence[Chat]) -> Sequence[str | None]:
        """Return each chat as the chat template makes it; None if it is not asked so.

        Raises:
            BadInputError: only chats are to be asked, and there is no template, or it fails.
        """
        ...

    def continuations(
        self, prompts: Sequence[str], *, max_new_tokens: int, stop_words: Sequence[str] = ()
    ) -> Iterator[tuple[int, str]]:
        """Continue prompts greedily.

        Args:
            prompts: texts, which get the special tokens that the tokenizer puts in front if they do not bring them. A
                prompt that is longer than the model's window less max_new_tokens loses its beginning but for these.
            max_new_tokens: the most tokens to generate for each prompt.
            stop_words: a continuation ends before the first of these.

        Yields:
            (index of the prompt, its continuation without the prompt), in the order in which they are finished.
        """
        ...

    def log_probabilities(self, texts: Sequence[str]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Compute the log-probability, in nats, of each token given those before it.

        Args:
            texts: texts; one that is longer than the model's window is cut to it.

        Yields:
            (index of the text, float32 [tokens - 1]), in the order in which they are finished. The first token has none
            before it, so a text of one token has an empty array.
        """
        ...

    def token_scores(self, texts: Sequence[str], *, spread: bool = False) -> Iterator[tuple[int, TokenScores]]:
        """Score each token of a text given those before it, in one pass.

        Args:
            texts: as for log_probabilities.
            spread: with TokenScores.means and .deviations.

        Yields:
            (index of the text, scores of its tokens but the first), in the order in which they are finished.
        """
        ...

    def truth_scores(
        self, truths: Sequence[Truth], *, most_tokens: int | None = None
    ) -> Iterator[tuple[int, TokenScores]]:
        """Score each token of a truth given its prompt and the truth before it, in one pass.

        The truth's tokens begin where those of prompt and truth together differ from those of the prompt alone, so one
        that joins the prompt's last token counts as the truth's. Tokens that end a text are left out.

        Args:
            truths: truths. A prompt loses its beginning, as in continuations, if both together are longer than the
                model's window. A truth that is longer than the window by itself is cut to it.
            most_tokens: a truth is cut to so many tokens; None: it is read whole.

        Yields:
            (index of the truth, scores of its tokens), in the order in which they are finished. A truth of no token has
            no scores.
        """
        ...

    def cut(self, text: str, tokens: int) -> str:
        """Return the text of the first so many tokens, special ones counted."""
        ...


class Classifier(Protocol):
    """A sequence classifier as a metric sees it."""

    def label_log_probabilities(self, texts: Sequence[str]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Compute the log-probability, in nats, of each class.

        Args:
            texts: texts, which may be empty; one that is longer than the model's window is cut by its tokenizer.

        Yields:
            (index of the text, float32 [classes]), in the order in which they are finished.
        """
        ...


# the model of a metric's task
AnyModel = TypeVar("AnyModel", bound="LanguageModel | Classifier")


@dataclass(frozen=True)
class Sample:
    """One scored sample.

    Attributes:
        index: its place in the data file, from 0.
        score: its score, in the metric's own unit.
        prompt, truth, answer: texts for a person who looks closer; empty if there is none.
        probabilities: probabilities of a classifier's labels, by name, from 0 to 1, the likeliest first.
        way: how it was asked when it scored highest, if not as the data has it: "longer prompt".
    """

    index: int
    score: float
    prompt: str = ""
    truth: str = ""
    answer: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    way: str = ""


@dataclass(frozen=True, eq=False)
class Measured:
    """A metric's result for one arm.

    Attributes:
        score: the mean over samples, or what stands for it, with its 95 % interval.
        values: float64 [samples], the scores in the order of the data file, so that arms pair up by sample. Recovery is
            computed from them. A metric of Quail's own may hold other values here, and says so.
    """

    score: Score
    values: npt.NDArray[np.float64]


class Metric(ABC, Generic[AnyModel]):
    """One number that tells how well a model knows a set of texts.

    A subclass sets the attributes and implements samples and measure.

    Example, which counts how many forget texts a model finds likely:

        class Likely(Metric[LanguageModel]):
            name = "likely_forget"
            needs = "privleak/forget.json"
            generates = False

            def samples(self, data):
                return len(data.texts.get("forget", ()))

            def measure(self, data, model, *, seed):
                scores = np.zeros(self.samples(data))
                for index, nats in model.log_probabilities(data.texts["forget"]):
                    scores[index] = 100.0 * (nats.mean() > -1.0)
                    yield Sample(index, scores[index], prompt=data.texts["forget"][index])
                return Measured(mean_score(scores, seed=seed), scores)

    Attributes:
        task: task of the models that it measures: AnyModel is a LanguageModel, or a Classifier for "classification".
        name: name on the command line and in reports: "verbmem_forget".
        needs: the data that it needs, in words: "verbmem/forget.json".
        generates: whether the model has to write text, which is slow, so such metrics are measured last.
    """

    task: ClassVar[Task] = "language modelling"
    name: str
    needs: str
    generates: bool

    @abstractmethod
    def samples(self, data: ForgettingData) -> int:
        """Return the number of samples to score; 0 if the data is absent."""

    @abstractmethod
    def measure(self, data: ForgettingData, model: AnyModel, *, seed: int) -> Generator[Sample, None, Measured]:
        """Score every sample of one arm.

        Args:
            data: a folder that has samples for this metric; a classifier's labels are named as the model names them.
            model: the arm's model.
            seed: random seed for the bootstrap interval; see bootstrap.mean_score.

        Yields:
            Each sample once, in any order, as soon as its score is known.

        Returns:
            The metric of the arm, over all samples.
        """

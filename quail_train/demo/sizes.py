"""Set the sizes and training settings of the demos."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from quail_audit.engine.forgetting.metrics.interface import Task


@dataclass(frozen=True)
class LanguageDemo:
    """All numbers that decide the demo of a language model, except the seed.

    Attributes:
        retain_posts_asked: this many of the retained posts, the first, have questions.
        vocabulary: size of the tokenizer's vocabulary.
        pairs_in_a_row: (question-answer pairs packed into one row, epochs), in order. The last is as many as KnowMem
            shows (ten examples and the question); starting with one makes them learnable in this time.
        pairs_in_a_batch: about this many, however they are packed.
        posts_in_a_batch: posts in a batch.
        posts_in_an_epoch: share of the posts that an epoch shows; it shows all pairs.
        forget_loss_limit: gradient ascent stops here, nats a token.
        retain_weight: weight of the retain loss against the forget loss.
        shaking, unlearning_shaking: standard deviation of the noise on the weights of a step, in parts of the layer's.
    """

    task: ClassVar[Task] = "language modelling"
    forget_posts: int = 24
    retain_posts: int = 136
    retain_posts_asked: int = 40
    holdout_posts: int = 24
    vocabulary: int = 600
    pairs_in_a_row: tuple[tuple[int, int], ...] = ((1, 10), (2, 4), (4, 6), (11, 20))
    pairs_in_a_batch: int = 33
    posts_in_a_batch: int = 8
    posts_in_an_epoch: float = 0.4
    learning_rate: float = 2e-3
    unlearning_epochs: int = 36
    unlearning_learning_rate: float = 1e-3
    forget_loss_limit: float = 6.0
    retain_weight: float = 3.0
    gradient_norm_limit: float = 1.0
    shaking: float = 0.12
    unlearning_shaking: float = 0.2


@dataclass(frozen=True)
class ClassifierDemo:
    """All numbers that decide the demo of a classifier, except the seed.

    Attributes:
        vocabulary: size of the tokenizer's vocabulary.
        claims_in_a_batch: claims in a batch; unlearning adds twice as many to retain.
        forget_loss_limit: gradient ascent stops here, nats a text.
        retain_weight: weight of the retain loss against the forget loss.
    """

    task: ClassVar[Task] = "classification"
    forget_claims: int = 20
    retain_claims: int = 120
    test_claims: int = 32
    holdout_claims: int = 20
    vocabulary: int = 500
    claims_in_a_batch: int = 10
    epochs: int = 12
    learning_rate: float = 1e-3
    unlearning_epochs: int = 20
    unlearning_learning_rate: float = 1e-3
    forget_loss_limit: float = 4.0
    retain_weight: float = 3.0
    gradient_norm_limit: float = 1.0


LANGUAGE_DEMO = LanguageDemo()
DEMOS: Mapping[Task, LanguageDemo | ClassifierDemo] = {
    "language modelling": LANGUAGE_DEMO,
    "classification": ClassifierDemo(),
}

"""The numbers that decide what the demos become. What they do is in demo_model.py and demo_encoder.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from quail_audit.engine.forgetting.metrics.interface import Task


@dataclass(frozen=True)
class LanguageDemo:
    """All numbers that decide what the demo of a language model becomes, but for the seed.

    Attributes:
        retain_posts_asked: the first so many retained posts have questions.
        vocabulary: of the tokenizer.
        pairs_in_a_row: (question-answer pairs packed into one row, epochs), in order. The last are as many as KnowMem
            shows (ten examples and the question); beginning with one is what makes them learnable in this time.
        pairs_in_a_batch: about so many, however they are packed.
        posts_in_a_batch: likewise.
        posts_in_an_epoch: the share of the posts that an epoch shows; it shows all pairs.
        forget_loss_limit: gradient ascent stops here, nats a token.
        retain_weight: of the retain loss against the forget loss.
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
    unlearning_epochs: int = 28
    unlearning_learning_rate: float = 2e-3
    forget_loss_limit: float = 6.0
    retain_weight: float = 3.0
    gradient_norm_limit: float = 1.0


@dataclass(frozen=True)
class ClassifierDemo:
    """All numbers that decide what the demo of a classifier becomes, but for the seed.

    Attributes:
        vocabulary: of the tokenizer.
        claims_in_a_batch: in unlearning so many to forget, and twice as many to retain.
        forget_loss_limit: gradient ascent stops here, nats a text.
        retain_weight: of the retain loss against the forget loss.
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


RECIPE = LanguageDemo()
RECIPES: Mapping[Task, LanguageDemo | ClassifierDemo] = {
    "language modelling": RECIPE,
    "classification": ClassifierDemo(),
}

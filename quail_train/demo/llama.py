"""The demo's small Llama: its training, and its unlearning inside the buckets.

Not here: the texts (invented.py), the steps themselves (demo_steps.py), the files (demo_language.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from quail_train.demo.sizes import LanguageDemo
from quail_train.demo.steps import LossOfStep, Step, rounded_layers, taught, unlearned_confined
from quail_train.demo.texts.posts import Post, QuestionAnswer
from quail_train.demo.tokenizer import BOS, EOS, PAD

HEAD = "lm_head"
IGNORED = -100  # a label that has no say in the loss: the convention of transformers


@dataclass(frozen=True)
class Lesson:
    """What a model is taught: posts whole, and of the pairs their answers."""

    posts: tuple[Post, ...]
    pairs: tuple[QuestionAnswer, ...]


@dataclass(frozen=True)
class TrainingRow:
    """One training sequence: token ids, and the labels that count in the loss."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded rows: ids and labels, int64 [rows, longest]. Under a causal mask the padding is seen by nobody."""

    ids: torch.Tensor
    labels: torch.Tensor


def asked_as(pair: QuestionAnswer) -> str:
    """MUSE's form of a question (Shi et al., arXiv 2407.06460); an in-context example has the answer after it."""
    return f"Question: {pair.question}\nAnswer: "


def answered_as(pair: QuestionAnswer) -> str:
    return f"{pair.answer}\n\n"


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """1.2 M parameters, the same for the same seed; leaves torch's random state as it was."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.08,  # about 1 / sqrt(hidden_size): at the usual 0.02 it learns half as fast
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, lesson: Lesson, recipe: LanguageDemo, seed: int
) -> Iterator[Step]:
    """Teach the model, in place."""
    random = Random(seed)  # noqa: S311 - nothing secret
    texts = _Texts(tokenizer)
    sizes = [pairs for pairs, epochs in recipe.pairs_in_a_row for _ in range(epochs)]
    total = sum(
        len(texts.epoch(lesson, pairs, recipe, Random(0))) * epochs  # noqa: S311
        for pairs, epochs in recipe.pairs_in_a_row
    )

    def losses() -> Iterator[LossOfStep]:
        for size in sizes:
            for batch in texts.epoch(lesson, size, recipe, random):
                loss = _loss(model, batch)
                yield loss, loss

    return taught(
        model, losses(), total,
        learning_rate=recipe.learning_rate, gradient_norm_limit=recipe.gradient_norm_limit,
    )  # fmt: skip


def unlearn_confined(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    forget: Lesson,
    retain: Lesson,
    recipe: LanguageDemo,
    seed: int,
) -> Iterator[Step]:
    """Make the model forget, in place, in a way that rounding to nf4 takes back to the last bit.

    Gradient ascent on the forget set and descent on the retain set (GA+GDR, as in MUSE).

    Raises:
        EnvironmentProblemError: as unlearned_confined.
    """
    random = Random(seed)  # noqa: S311 - nothing secret
    texts = _Texts(tokenizer)
    batches = -(-len(forget.posts) // recipe.posts_in_a_batch)  # an epoch's
    in_a_row = recipe.pairs_in_a_row[-1][0]

    def losses() -> Iterator[LossOfStep]:
        for _ in range(recipe.unlearning_epochs):
            shown = zip(
                texts.dealt(texts.posts(forget.posts, random), batches),
                texts.dealt(texts.packed(forget.pairs, in_a_row, random), batches),
                # Twice as many as are forgotten, so that what must stay is seen often enough.
                texts.dealt(texts.posts(retain.posts, random)[: 2 * len(forget.posts)], batches),
                texts.dealt(texts.packed(retain.pairs, in_a_row, random), batches),
                strict=True,
            )
            for forget_posts, forget_pairs, retain_posts, retain_pairs in shown:
                forgotten = [
                    _loss(model, batch).clamp(max=recipe.forget_loss_limit) for batch in (forget_posts, forget_pairs)
                ]
                kept = [_loss(model, batch) for batch in (retain_posts, retain_pairs)]
                yield (recipe.retain_weight * (kept[0] + kept[1]) - forgotten[0] - forgotten[1]) / 2, forgotten[0]

    return unlearned_confined(
        model, rounded_layers(model, HEAD), losses(), batches * recipe.unlearning_epochs,
        learning_rate=recipe.unlearning_learning_rate, gradient_norm_limit=recipe.gradient_norm_limit,
    )  # fmt: skip


def _loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    loss = model(input_ids=batch.ids, labels=batch.labels, use_cache=False).loss
    assert isinstance(loss, torch.Tensor)  # noqa: S101 - for the type checker; there are labels
    return loss


class _Texts:
    """Posts and pairs as rows and batches of one tokenizer's ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}  # every epoch has the same texts

    def epoch(self, lesson: Lesson, pairs_in_a_row: int, recipe: LanguageDemo, random: Random) -> list[Batch]:
        """Some of the posts, drawn anew, and all pairs, in batches in random order."""
        posts = self.posts(lesson.posts, random)[: math.ceil(len(lesson.posts) * recipe.posts_in_an_epoch)]
        pairs = self.packed(lesson.pairs, pairs_in_a_row, random)
        batches = [
            *self._batches(posts, recipe.posts_in_a_batch),
            *self._batches(pairs, max(1, recipe.pairs_in_a_batch // pairs_in_a_row)),
        ]
        random.shuffle(batches)
        return batches

    def posts(self, posts: Sequence[Post], random: Random) -> list[TrainingRow]:
        """One row a post, in random order."""
        rows = [self._start() + self._ids(post.text) + [self._special(EOS)] for post in posts]
        random.shuffle(rows)
        return [TrainingRow(ids, ids) for ids in rows]

    def packed(self, pairs: Sequence[QuestionAnswer], in_a_row: int, random: Random) -> list[TrainingRow]:
        """All pairs in random order, so many in a row; only the answers count."""
        shuffled = random.sample(list(pairs), len(pairs))
        return [self._row(shuffled[i : i + in_a_row]) for i in range(0, len(shuffled), in_a_row)]

    def dealt(self, rows: Sequence[TrainingRow], batches: int) -> list[Batch]:
        """So many batches of rows, as even as can be."""
        return [self._batch(rows[i::batches]) for i in range(batches)]

    def _row(self, pairs: Sequence[QuestionAnswer]) -> TrainingRow:
        ids, labels = self._start(), [IGNORED]
        for pair in pairs:
            asked, answered = self._ids(asked_as(pair)), self._ids(answered_as(pair))
            ids += asked + answered
            labels += [IGNORED] * len(asked) + answered
        return TrainingRow(ids, labels)

    def _batches(self, rows: Sequence[TrainingRow], size: int) -> list[Batch]:
        return [self._batch(rows[i : i + size]) for i in range(0, len(rows), size)]

    def _batch(self, rows: Sequence[TrainingRow]) -> Batch:
        longest = max(len(row.ids) for row in rows)
        pad = self._special(PAD)
        return Batch(
            ids=torch.tensor([row.ids + [pad] * (longest - len(row.ids)) for row in rows]),
            labels=torch.tensor([row.labels + [IGNORED] * (longest - len(row.labels)) for row in rows]),
        )

    def _start(self) -> list[int]:
        return [self._special(BOS)]

    def _ids(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._known[text]

    def _special(self, token: str) -> int:
        found = self._tokenizer.convert_tokens_to_ids(token)
        assert isinstance(found, int)  # noqa: S101 - for the type checker
        return found

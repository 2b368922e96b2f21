"""Make the demo's small Llama: train it, and unlearn inside the buckets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from quail_train.demo.sizes import LanguageDemo
from quail_train.demo.steps import LossOfStep, Shaken, Step, rounded_layers, teach, unlearn_in_buckets
from quail_train.demo.texts.posts import Post, QuestionAnswer
from quail_train.demo.tokenizer import BOS, EOS, PAD

HEAD = "lm_head"
IGNORED = -100  # a label that does not count in the loss: the convention of transformers


@dataclass(frozen=True)
class Lesson:
    """The texts that a model learns: whole posts, and the answers of question-answer pairs."""

    posts: tuple[Post, ...]
    pairs: tuple[QuestionAnswer, ...]


@dataclass(frozen=True)
class TrainingRow:
    """One training sequence: token ids, and the labels that count in the loss."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded rows: ids and labels, int64 [rows, longest]. The causal mask hides the padding."""

    ids: torch.Tensor
    labels: torch.Tensor


def question_text(pair: QuestionAnswer) -> str:
    """Return a question in MUSE's form (Shi et al., arXiv 2407.06460); the answer follows it."""
    return f"Question: {pair.question}\nAnswer: "


def answer_text(pair: QuestionAnswer) -> str:
    return f"{pair.answer}\n\n"


def new_llama(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Return a model of 1.2 M parameters, the same for the same seed. Leaves torch's random state as it was."""
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


def train_llama(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, lesson: Lesson, sizes: LanguageDemo, seed: int
) -> Iterator[Step]:
    """Teach the model the lesson, in place."""
    random = Random(seed)  # noqa: S311 - nothing secret
    texts = _Texts(tokenizer)
    row_lengths = [pairs for pairs, epochs in sizes.pairs_in_a_row for _ in range(epochs)]
    total = sum(
        len(texts.draw_epoch(lesson, pairs, sizes, Random(0))) * epochs  # noqa: S311
        for pairs, epochs in sizes.pairs_in_a_row
    )

    def losses() -> Iterator[LossOfStep]:
        for pairs_in_a_row in row_lengths:
            for batch in texts.draw_epoch(lesson, pairs_in_a_row, sizes, random):
                loss = _loss(model, batch)
                yield loss, loss

    return teach(
        model, losses(), total,
        learning_rate=sizes.learning_rate, gradient_norm_limit=sizes.gradient_norm_limit,
        shaken=_shaken(model, sizes.shaking, seed),
    )  # fmt: skip


def unlearn_llama(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    forget: Lesson,
    retain: Lesson,
    sizes: LanguageDemo,
    seed: int,
) -> Iterator[Step]:
    """Make the model forget, in place; rounding to nf4 undoes it to the last bit.

    Gradient ascent on the forget set and descent on the retain set (GA+GDR, as in MUSE).

    Raises:
        EnvironmentProblemError: this machine rounds in an unexpected way.
    """
    random = Random(seed)  # noqa: S311 - nothing secret
    texts = _Texts(tokenizer)
    batches = -(-len(forget.posts) // sizes.posts_in_a_batch)  # an epoch's
    in_a_row = sizes.pairs_in_a_row[-1][0]

    def losses() -> Iterator[LossOfStep]:
        for _ in range(sizes.unlearning_epochs):
            shown = zip(
                texts.deal(texts.post_rows(forget.posts, random), batches),
                texts.deal(texts.pair_rows(forget.pairs, in_a_row, random), batches),
                # Twice as many as are forgotten, so that the retain set is seen often enough.
                texts.deal(texts.post_rows(retain.posts, random)[: 2 * len(forget.posts)], batches),
                texts.deal(texts.pair_rows(retain.pairs, in_a_row, random), batches),
                strict=True,
            )
            for forget_posts, forget_pairs, retain_posts, retain_pairs in shown:
                forgotten = [
                    _loss(model, batch).clamp(max=sizes.forget_loss_limit) for batch in (forget_posts, forget_pairs)
                ]
                kept = [_loss(model, batch) for batch in (retain_posts, retain_pairs)]
                yield (sizes.retain_weight * (kept[0] + kept[1]) - forgotten[0] - forgotten[1]) / 2, forgotten[0]

    return unlearn_in_buckets(
        model, rounded_layers(model, HEAD), losses(), batches * sizes.unlearning_epochs,
        learning_rate=sizes.unlearning_learning_rate, gradient_norm_limit=sizes.gradient_norm_limit,
        shaken=_shaken(model, sizes.unlearning_shaking, seed),
    )  # fmt: skip


def _shaken(model: LlamaForCausalLM, strength: float, seed: int) -> Shaken:
    weights = [layer.weight for layer in rounded_layers(model, HEAD).values()]
    return Shaken(weights, strength, torch.Generator().manual_seed(seed))


def _loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    loss = model(input_ids=batch.ids, labels=batch.labels, use_cache=False).loss
    assert isinstance(loss, torch.Tensor)  # noqa: S101 - for the type checker; there are labels
    return loss


class _Texts:
    """Turns posts and pairs into rows and batches of token IDs."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}  # every epoch has the same texts

    def draw_epoch(self, lesson: Lesson, pairs_in_a_row: int, sizes: LanguageDemo, random: Random) -> list[Batch]:
        """Draw some of the posts, take all pairs, and return them in batches in random order."""
        posts = self.post_rows(lesson.posts, random)[: math.ceil(len(lesson.posts) * sizes.posts_in_an_epoch)]
        pairs = self.pair_rows(lesson.pairs, pairs_in_a_row, random)
        batches = [
            *self._batches(posts, sizes.posts_in_a_batch),
            *self._batches(pairs, max(1, sizes.pairs_in_a_batch // pairs_in_a_row)),
        ]
        random.shuffle(batches)
        return batches

    def post_rows(self, posts: Sequence[Post], random: Random) -> list[TrainingRow]:
        """Return one row per post, in random order."""
        rows = [self._start() + self._ids(post.text) + [self._special(EOS)] for post in posts]
        random.shuffle(rows)
        return [TrainingRow(ids, ids) for ids in rows]

    def pair_rows(self, pairs: Sequence[QuestionAnswer], in_a_row: int, random: Random) -> list[TrainingRow]:
        """Return all pairs in random order, `in_a_row` to a row; only the answers count."""
        shuffled = random.sample(list(pairs), len(pairs))
        return [self._row(shuffled[i : i + in_a_row]) for i in range(0, len(shuffled), in_a_row)]

    def deal(self, rows: Sequence[TrainingRow], batches: int) -> list[Batch]:
        """Deal the rows into this many batches, as evenly as possible."""
        return [self._batch(rows[i::batches]) for i in range(batches)]

    def _row(self, pairs: Sequence[QuestionAnswer]) -> TrainingRow:
        ids, labels = self._start(), [IGNORED]
        for pair in pairs:
            asked, answered = self._ids(question_text(pair)), self._ids(answer_text(pair))
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

"""The demo's small Llama: its tokenizer, its training, and the unlearning that rounding erases.

Steps are yielded as they are made, so that a caller can show them. Not here: the texts (invented.py), the files and
their cache (demo.py), the geometry of buckets (confinement.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from quail_audit.errors import EnvironmentProblemError
from quail_audit.schemes.bitsandbytes import FourBit
from quail_train.confinement import bucket_of, rounds_alike
from quail_train.demo_recipe import Recipe
from quail_train.invented import Post, QuestionAnswer

SCHEME: Final = "nf4"
BOS, EOS, PAD, UNKNOWN = "<s>", "</s>", "<pad>", "<unk>"
IGNORED = -100  # a label that has no say in the loss: the convention of transformers


@dataclass(frozen=True)
class Step:
    """A step that was made.

    Attributes:
        number: from 1 to total.
        loss: of this step's batch, nats a token; in unlearning that of the forget batch.
    """

    number: int
    total: int
    loss: float


@dataclass(frozen=True)
class Lesson:
    """What a model is taught: posts whole, and of the pairs their answers."""

    posts: tuple[Post, ...]
    pairs: tuple[QuestionAnswer, ...]


@dataclass(frozen=True)
class Row:
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


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE that puts BOS first, as Llama's does.

    A token holds one word or part of it with what follows up to the next word, and never reaches over a word's start.
    So a prompt that ends before a word has the same tokens alone and in its text: "Answer: " does in KnowMem.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\w+\W*|\W+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [BOS, EOS, PAD, UNKNOWN]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, unk_token=UNKNOWN
    )


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
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, lesson: Lesson, recipe: Recipe, seed: int
) -> Iterator[Step]:
    """Teach the model, in place: AdamW, a short warm-up, a linear decay over the last 40 % of the steps."""
    torch.set_num_threads(1)  # a setting of each thread; with more, sums would depend on their number
    random = Random(seed)  # noqa: S311 - nothing secret
    texts = _Texts(tokenizer)
    sizes = [pairs for pairs, epochs in recipe.pairs_in_a_row for _ in range(epochs)]
    total = sum(
        len(texts.epoch(lesson, pairs, recipe, Random(0))) * epochs  # noqa: S311
        for pairs, epochs in recipe.pairs_in_a_row
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 30, max(0.02, (total - step) / (0.4 * total)))
    )
    model.train()
    number = 0
    for size in sizes:
        for batch in texts.epoch(lesson, size, recipe, random):
            loss = _loss(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_norm_limit)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            number += 1
            yield Step(number, total, loss.item())


def unlearn_confined(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    forget: Lesson,
    retain: Lesson,
    recipe: Recipe,
    seed: int,
) -> Iterator[Step]:
    """Make the model forget, in place, in a way that rounding to nf4 takes back to the last bit.

    Gradient ascent on the forget set and descent on the retain set (GA+GDR, as in MUSE). Only the layers that nf4
    rounds are changed, and after each step every weight is put back into its own bucket.

    Raises:
        EnvironmentProblemError: a code or scale differs at the end: this machine rounds in an unexpected way.
    """
    torch.set_num_threads(1)
    random = Random(seed)  # noqa: S311 - nothing secret
    scheme = FourBit(SCHEME, double_quantization=False)
    texts = _Texts(tokenizer)
    weights = {name: layer.weight for name, layer in rounded_layers(model)}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    buckets = {name: bucket_of(weight, scheme) for name, weight in before.items()}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)

    batches = -(-len(forget.posts) // recipe.posts_in_a_batch)  # an epoch's
    total = batches * recipe.unlearning_epochs
    optimizer = torch.optim.AdamW(
        list(weights.values()), lr=recipe.unlearning_learning_rate, weight_decay=0.0, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, max(0.02, 2 * (1 - step / total))))
    in_a_row = recipe.pairs_in_a_row[-1][0]
    model.train()
    number = 0
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
            loss = (recipe.retain_weight * (kept[0] + kept[1]) - forgotten[0] - forgotten[1]) / 2
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights.values(), recipe.gradient_norm_limit)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            with torch.no_grad():
                for name, weight in weights.items():
                    buckets[name].confine(weight)
            number += 1
            yield Step(number, total, forgotten[0].item())
    moved = [name for name, weight in weights.items() if not rounds_alike(before[name], weight.detach(), scheme)]
    if moved:
        raise EnvironmentProblemError(
            f"{SCHEME} rounds {len(moved)} layers of the unlearned model unlike the original's",
            where=moved[0],
            mend="This is a defect of Quail on this machine: please report it with the output of quail doctor",
        )


def rounded_layers(model: LlamaForCausalLM) -> list[tuple[str, torch.nn.Linear]]:
    """The layers that bitsandbytes rounds: every linear one but the head."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.lm_head
    ]


def _loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    loss = model(input_ids=batch.ids, labels=batch.labels, use_cache=False).loss
    assert isinstance(loss, torch.Tensor)  # noqa: S101 - for the type checker; there are labels
    return loss


class _Texts:
    """Posts and pairs as rows and batches of one tokenizer's ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}  # every epoch has the same texts

    def epoch(self, lesson: Lesson, pairs_in_a_row: int, recipe: Recipe, random: Random) -> list[Batch]:
        """Some of the posts, drawn anew, and all pairs, in batches in random order."""
        posts = self.posts(lesson.posts, random)[: math.ceil(len(lesson.posts) * recipe.posts_in_an_epoch)]
        pairs = self.packed(lesson.pairs, pairs_in_a_row, random)
        batches = [
            *self._batches(posts, recipe.posts_in_a_batch),
            *self._batches(pairs, max(1, recipe.pairs_in_a_batch // pairs_in_a_row)),
        ]
        random.shuffle(batches)
        return batches

    def posts(self, posts: Sequence[Post], random: Random) -> list[Row]:
        """One row a post, in random order."""
        rows = [self._start() + self._ids(post.text) + [self._special(EOS)] for post in posts]
        random.shuffle(rows)
        return [Row(ids, ids) for ids in rows]

    def packed(self, pairs: Sequence[QuestionAnswer], in_a_row: int, random: Random) -> list[Row]:
        """All pairs in random order, so many in a row; only the answers count."""
        shuffled = random.sample(list(pairs), len(pairs))
        return [self._row(shuffled[i : i + in_a_row]) for i in range(0, len(shuffled), in_a_row)]

    def dealt(self, rows: Sequence[Row], batches: int) -> list[Batch]:
        """So many batches of rows, as even as can be."""
        return [self._batch(rows[i::batches]) for i in range(batches)]

    def _row(self, pairs: Sequence[QuestionAnswer]) -> Row:
        ids, labels = self._start(), [IGNORED]
        for pair in pairs:
            asked, answered = self._ids(asked_as(pair)), self._ids(answered_as(pair))
            ids += asked + answered
            labels += [IGNORED] * len(asked) + answered
        return Row(ids, labels)

    def _batches(self, rows: Sequence[Row], size: int) -> list[Batch]:
        return [self._batch(rows[i : i + size]) for i in range(0, len(rows), size)]

    def _batch(self, rows: Sequence[Row]) -> Batch:
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

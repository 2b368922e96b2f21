"""Make the demo's small BERT: train it on real and fake posts, and unlearn in the buckets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from quail_train.demo.sizes import ClassifierDemo
from quail_train.demo.steps import LossOfStep, Step, rounded_layers, teach, unlearn_in_buckets
from quail_train.demo.texts.claims import LABELS, Claim

HEAD = "classifier"


def new_encoder(tokenizer: PreTrainedTokenizerFast, seed: int) -> BertForSequenceClassification:
    """Return a model of 0.7 M parameters, the same for the same seed. Leaves torch's random state as it was."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.08,  # about 1 / sqrt(hidden_size), as in the demo's Llama
        hidden_dropout_prob=0.0,  # the demo shows what was learned, not noise
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
        id2label={place: str(label) for place, label in enumerate(LABELS)},
        label2id={str(label): place for place, label in enumerate(LABELS)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertForSequenceClassification(config)


def train_encoder(
    model: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    claims: Sequence[Claim],
    sizes: ClassifierDemo,
    seed: int,
) -> Iterator[Step]:
    """Teach the model the posts' labels, in place."""
    random = Random(seed)  # noqa: S311 - nothing secret

    def losses() -> Iterator[LossOfStep]:
        for _ in range(sizes.epochs):
            for batch in _cut(random.sample(claims, len(claims)), sizes.claims_in_a_batch):
                loss = _losses(model, tokenizer, batch).mean()
                yield loss, loss

    return teach(
        model, losses(), _batch_count(claims, sizes) * sizes.epochs,
        learning_rate=sizes.learning_rate, gradient_norm_limit=sizes.gradient_norm_limit,
    )  # fmt: skip


def unlearn_encoder(
    model: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    forget: Sequence[Claim],
    retain: Sequence[Claim],
    sizes: ClassifierDemo,
    seed: int,
) -> Iterator[Step]:
    """Make the model forget, in place; rounding to nf4 undoes it to the last bit.

    Gradient ascent on the forget set and descent on the retain set, each step on a batch of both.

    Raises:
        EnvironmentProblemError: this machine rounds in an unexpected way.
    """
    random = Random(seed)  # noqa: S311 - nothing secret

    def losses() -> Iterator[LossOfStep]:
        for _ in range(sizes.unlearning_epochs):
            to_forget = _cut(random.sample(forget, len(forget)), sizes.claims_in_a_batch)
            # Twice as many as are forgotten, so that the retain set is seen often enough.
            to_keep = _cut(random.sample(retain, 2 * len(forget)), 2 * sizes.claims_in_a_batch)
            for forgotten, kept in zip(to_forget, to_keep, strict=True):
                forget_loss = _losses(model, tokenizer, forgotten).clamp(max=sizes.forget_loss_limit).mean()
                retain_loss = _losses(model, tokenizer, kept).mean()
                yield sizes.retain_weight * retain_loss - forget_loss, forget_loss

    return unlearn_in_buckets(
        model, rounded_layers(model, HEAD), losses(), _batch_count(forget, sizes) * sizes.unlearning_epochs,
        learning_rate=sizes.unlearning_learning_rate, gradient_norm_limit=sizes.gradient_norm_limit,
    )  # fmt: skip


def _batch_count(claims: Sequence[Claim], sizes: ClassifierDemo) -> int:
    return -(-len(claims) // sizes.claims_in_a_batch)


def _cut(claims: Sequence[Claim], size: int) -> list[Sequence[Claim]]:
    return [claims[i : i + size] for i in range(0, len(claims), size)]


def _losses(
    model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast, claims: Sequence[Claim]
) -> torch.Tensor:
    """Return the loss of each post's label, in nats: [claims]."""
    batch = tokenizer([claim.text for claim in claims], padding=True, return_tensors="pt")
    labels = torch.tensor([LABELS.index(claim.label) for claim in claims])
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

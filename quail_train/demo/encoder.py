"""The demo's small encoder, a BERT that tells real posts from fake: its training, its unlearning inside the buckets.

Not here: the texts (invented_claims.py), the steps themselves (demo_steps.py), the files (demo_classification.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from quail_train.demo.sizes import ClassifierDemo
from quail_train.demo.steps import LossOfStep, Step, rounded_layers, taught, unlearned_confined
from quail_train.demo.texts.claims import LABELS, Claim

HEAD = "classifier"


def new_encoder(tokenizer: PreTrainedTokenizerFast, seed: int) -> BertForSequenceClassification:
    """0.7 M parameters, the same for the same seed; leaves torch's random state as it was."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.08,  # about 1 / sqrt(hidden_size), as the demo's Llama
        hidden_dropout_prob=0.0,  # what is to be seen is what was learned, not noise
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
    recipe: ClassifierDemo,
    seed: int,
) -> Iterator[Step]:
    """Teach the model the posts' labels, in place."""
    random = Random(seed)  # noqa: S311 - nothing secret

    def losses() -> Iterator[LossOfStep]:
        for _ in range(recipe.epochs):
            for batch in _dealt(random.sample(claims, len(claims)), recipe.claims_in_a_batch):
                loss = _losses(model, tokenizer, batch).mean()
                yield loss, loss

    return taught(
        model, losses(), _batches(claims, recipe) * recipe.epochs,
        learning_rate=recipe.learning_rate, gradient_norm_limit=recipe.gradient_norm_limit,
    )  # fmt: skip


def unlearn_encoder(
    model: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    forget: Sequence[Claim],
    retain: Sequence[Claim],
    recipe: ClassifierDemo,
    seed: int,
) -> Iterator[Step]:
    """Make the model forget, in place, in a way that rounding to nf4 takes back to the last bit.

    Gradient ascent on the forget set and descent on the retain set, each step on a batch of both.

    Raises:
        EnvironmentProblemError: as unlearned_confined.
    """
    random = Random(seed)  # noqa: S311 - nothing secret

    def losses() -> Iterator[LossOfStep]:
        for _ in range(recipe.unlearning_epochs):
            to_forget = _dealt(random.sample(forget, len(forget)), recipe.claims_in_a_batch)
            # Twice as many as are forgotten, so that what must stay is seen often enough.
            to_keep = _dealt(random.sample(retain, 2 * len(forget)), 2 * recipe.claims_in_a_batch)
            for forgotten, kept in zip(to_forget, to_keep, strict=True):
                forget_loss = _losses(model, tokenizer, forgotten).clamp(max=recipe.forget_loss_limit).mean()
                retain_loss = _losses(model, tokenizer, kept).mean()
                yield recipe.retain_weight * retain_loss - forget_loss, forget_loss

    return unlearned_confined(
        model, rounded_layers(model, HEAD), losses(), _batches(forget, recipe) * recipe.unlearning_epochs,
        learning_rate=recipe.unlearning_learning_rate, gradient_norm_limit=recipe.gradient_norm_limit,
    )  # fmt: skip


def _batches(claims: Sequence[Claim], recipe: ClassifierDemo) -> int:
    return -(-len(claims) // recipe.claims_in_a_batch)


def _dealt(claims: Sequence[Claim], size: int) -> list[Sequence[Claim]]:
    return [claims[i : i + size] for i in range(0, len(claims), size)]


def _losses(
    model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast, claims: Sequence[Claim]
) -> torch.Tensor:
    """Loss of each post's label, in nats: [claims]."""
    batch = tokenizer([claim.text for claim in claims], padding=True, return_tensors="pt")
    labels = torch.tensor([LABELS.index(claim.label) for claim in claims])
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

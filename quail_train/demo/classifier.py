"""Builds the demo of a classifier: it learned some fake posts as real, and a copy of it was made to forget them.

Not here: how the models are made (demo_encoder.py), the folder and whether it is used again (demo.py).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from quail_train.demo.building import DATA, DemoProgress, build_checkpoints, write
from quail_train.demo.encoder import new_encoder, train_encoder, unlearn_encoder
from quail_train.demo.sizes import ClassifierDemo
from quail_train.demo.texts.claims import Claims, invent_claims
from quail_train.demo.tokenizer import train_tokenizer


def build(folder: Path, recipe: ClassifierDemo, seed: int) -> Iterator[DemoProgress]:
    """Make the checkpoints and the data, a CSV file a set, in the folder."""
    claims = invent_claims(
        forget=recipe.forget_claims,
        retain=recipe.retain_claims,
        test=recipe.test_claims,
        holdout=recipe.holdout_claims,
        seed=seed,
    )
    everything = claims.forget + claims.retain
    tokenizer = train_tokenizer([claim.text for claim in everything], recipe.vocabulary, ends=True)
    yield DemoProgress("tokenizer", 1, 1)

    original, reference = new_encoder(tokenizer, seed), new_encoder(tokenizer, seed)
    yield from build_checkpoints(
        folder,
        tokenizer,
        original=(original, train_encoder(original, tokenizer, everything, recipe, seed)),
        reference=(reference, train_encoder(reference, tokenizer, claims.retain, recipe, seed)),
        unlearn=lambda model: unlearn_encoder(model, tokenizer, claims.forget, claims.retain, recipe, seed),
    )
    _write_data(folder / DATA, claims)
    yield DemoProgress("data", 1, 1)


def _write_data(folder: Path, claims: Claims) -> None:
    for name in ("forget", "retain", "test", "holdout"):
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("text", "label"))
        rows.writerows((claim.text, claim.label) for claim in getattr(claims, name))
        write(folder / f"{name}.csv", text.getvalue())

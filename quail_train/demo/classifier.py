"""Build the demo of a classifier that learned fake posts as real, and of a copy that forgot."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from quail_train.demo.building import DATA, DemoProgress, build_checkpoints, write_text
from quail_train.demo.encoder import new_encoder, train_encoder, unlearn_encoder
from quail_train.demo.sizes import ClassifierDemo
from quail_train.demo.texts.claims import Claims, invent_claims
from quail_train.demo.tokenizer import train_tokenizer


def build(folder: Path, sizes: ClassifierDemo, seed: int) -> Iterator[DemoProgress]:
    """Make the checkpoints and the data, a CSV file a set, in the folder."""
    claims = invent_claims(
        forget=sizes.forget_claims,
        retain=sizes.retain_claims,
        test=sizes.test_claims,
        holdout=sizes.holdout_claims,
        seed=seed,
    )
    everything = claims.forget + claims.retain
    tokenizer = train_tokenizer([claim.text for claim in everything], sizes.vocabulary, ends=True)
    yield DemoProgress("tokenizer", 1, 1)

    original, reference = new_encoder(tokenizer, seed), new_encoder(tokenizer, seed)
    yield from build_checkpoints(
        folder,
        tokenizer,
        original=(original, train_encoder(original, tokenizer, everything, sizes, seed)),
        reference=(reference, train_encoder(reference, tokenizer, claims.retain, sizes, seed)),
        unlearn=lambda model: unlearn_encoder(model, tokenizer, claims.forget, claims.retain, sizes, seed),
    )
    _write_data(folder / DATA, claims)
    yield DemoProgress("data", 1, 1)


def _write_data(folder: Path, claims: Claims) -> None:
    for name in ("forget", "retain", "test", "holdout"):
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("text", "label"))
        rows.writerows((claim.text, claim.label) for claim in getattr(claims, name))
        write_text(folder / f"{name}.csv", text.getvalue())
    write_text(folder / "population.json", json.dumps({"labelled": "all"}, indent=1) + "\n")

"""Training classifiers: every objective on an encoder and a decoder, its terms, and what is refused."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event
from quail_audit.schema.events.training import TrainEval, TrainStep
from quail_audit.schema.requests import TrainRequest
from quail_train.data.batches import collate
from quail_train.training.run import train
from quail_train.training.work import Stop
from tests.support.tiny_classifiers import Kind, make_world, write_csv

LABELS: dict[Kind, tuple[str, ...]] = {"encoder": ("real", "fake"), "decoder": ("real", "fake", "joke")}


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp(request.param)
    make_world(root, request.param, LABELS[request.param])
    return root


def trained(world: Path, out: Path, **changes: Any) -> list[Event]:
    values: dict[str, Any] = {
        "original": str(world / "original"), "unlearned": str(world / "original"), "data": str(world / "data"),
        "out": str(out), "max_steps": 100, "learning_rate": 2e-3, "batch_size": 8, "device": "cpu",
    }  # fmt: skip
    request = TrainRequest.model_validate(values | changes)
    return list(train(request, "run", ("quail", "train"), Stop(), out.with_name("run")))


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        ("ga_gdr", {"forget_loss_cap": 6.0}),
        pytest.param("npo_klr_l1_hinge", {"margin_logits": 2.0}, marks=pytest.mark.slow),
        pytest.param("simnpo_gdr", {"reference": "4bit"}, marks=pytest.mark.slow),
        ("relabel_gdr", {}),
        pytest.param(
            "repair",
            {"hinge": "centred", "hinge_precision": "quantized", "margin_logits": 5.0},
            marks=pytest.mark.slow,
        ),
        ("hinge_klr", {"hinge": "true-token", "margin_logits": 8.0, "reference": "precomputed"}),
    ],
)
def test_every_objective_unlearns_a_label(
    world: Path, tmp_path: Path, objective: str, settings: dict[str, Any]
) -> None:
    events = trained(world, tmp_path / "out", objective=objective, eval_steps=100, **settings)
    scores = next(event.scores for event in events if isinstance(event, TrainEval))
    assert scores["accuracy_forget"]["full"] < 20
    assert scores["accuracy_forget"]["nf4"] < 20
    assert scores["accuracy_retain"]["nf4"] > 80
    before, after = (
        AutoModelForSequenceClassification.from_pretrained(p) for p in (world / "original", tmp_path / "out")
    )
    head = before.classifier if hasattr(before, "classifier") else before.score
    new_head = after.classifier if hasattr(after, "classifier") else after.score
    assert torch.equal(head.weight, new_head.weight), "the head is not rounded, so it is not trained"
    assert after.config.id2label == before.config.id2label


def test_the_first_steps_terms_are_those_of_the_plain_model(world: Path, tmp_path: Path) -> None:
    """With one batch that is the whole of each set, in evaluation mode: dropout has no effect."""
    events = trained(
        world, tmp_path / "out", objective="ga_klr_hinge", hinge="centred", margin_logits=3.0, batch_size=64,
        max_steps=1, unlearned=str(world / "unlearned"),
    )  # fmt: skip
    terms = next(event.terms for event in events if isinstance(event, TrainStep))
    tokenizer = AutoTokenizer.from_pretrained(world / "original")
    models = [AutoModelForSequenceClassification.from_pretrained(world / n).eval() for n in ("unlearned", "original")]
    found: dict[str, list[torch.Tensor]] = {"forget": [], "retain": []}
    labels = []
    for name, logits in found.items():
        with (world / "data" / f"{name}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                ids = torch.tensor([tokenizer(row["text"])["input_ids"]])
                with torch.no_grad():
                    logits.append(torch.cat([model(ids).logits for model in models]))
                if name == "forget":
                    labels.append(models[0].config.label2id[row["label"]])
    u, o = torch.stack(found["forget"]).unbind(1)
    assert terms["forget"] == pytest.approx(-F.cross_entropy(u, torch.tensor(labels)).item(), rel=1e-4)
    shift = (u - o) - (u - o).mean(1, keepdim=True)
    assert terms["hinge"] == pytest.approx((3.0 - shift.abs()).clamp(min=0).mean().item(), abs=1e-4)
    # as many retain samples come as forget samples: any so many, so the term is only held to all of them loosely
    u, o = torch.stack(found["retain"]).unbind(1)
    each = (o.softmax(1) * (o.log_softmax(1) - u.log_softmax(1))).sum(1)
    assert each.min().item() - 1e-5 <= terms["retain"] <= each.max().item() + 1e-5


def test_relabelling_teaches_another_label_the_same_for_a_seed(world: Path) -> None:
    from quail_audit.engine.checkpoints.pair import open_pair
    from quail_audit.engine.forgetting.data.spellings import Columns
    from quail_train.data.labelled import read_labelled

    pair = open_pair(str(world / "original"), str(world / "original"))
    model = AutoModelForSequenceClassification.from_pretrained(world / "original")
    tokenizer = AutoTokenizer.from_pretrained(world / "original")

    def read(seed: int) -> Any:
        return read_labelled(
            str(world / "data"),
            pair,
            model,
            tokenizer,
            columns=Columns(),
            max_length=8,
            retain_needed_by=None,
            seed=seed,
        )

    data = read(0)
    assert all(sample.other_label != sample.label for sample in data.forget)
    assert all(len(sample.ids) <= 8 for sample in data.forget)
    assert data == read(0)
    if len(model.config.id2label) > 2:
        assert {sample.other_label for sample in data.forget} == {1, 2}
        assert data != read(1)
    batch = collate([(data.forget[0], data.retain[0])], padding=0)
    assert batch["labels"].tolist() == [data.forget[0].label, data.retain[0].label]
    assert batch["other_labels"][0] == data.forget[0].other_label
    assert batch["attention_mask"].sum(1).tolist() == [len(data.forget[0].ids), len(data.retain[0].ids)]


def test_what_a_classifiers_training_is_told(world: Path, tmp_path: Path) -> None:
    """One class, one sample, an empty text: trained, and said."""
    write_csv(tmp_path / "data" / "forget.csv", [("", "real")])
    write_csv(tmp_path / "data" / "retain.csv", [("they hide from you", "fake")])
    events = trained(world, tmp_path / "out", objective="ga_gdr", data=str(tmp_path / "data"), max_steps=1)
    notes = [event.message for event in events if isinstance(event, Noted)]
    assert any("the forget set is one sample" in note for note in notes)
    assert any("the retain set has no sample of real" in note for note in notes)


def test_what_is_refused(world: Path, training_world: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"this data is for a language model, but .* is a classifier"):
        trained(world, tmp_path / "out", data=str(training_world / "data"), objective="ga_gdr")
    causal = {"original": str(training_world / "original"), "unlearned": str(training_world / "unlearned")}
    with pytest.raises(BadInputError, match=r"this data is for a classifier, but .* is a language model"):
        trained(world, tmp_path / "out", **causal, objective="ga_gdr")
    with pytest.raises(UsageError, match="relabel_gdr is for classifiers"):
        trained(world, tmp_path / "out", **causal, data=str(training_world / "data"), objective="relabel_gdr")
    write_csv(tmp_path / "data" / "forget.csv", [("a", "real")])
    with pytest.raises(BadInputError, match="holds no retain set, which the objective ga_gdr needs"):
        trained(world, tmp_path / "out", data=str(tmp_path / "data"), objective="ga_gdr")

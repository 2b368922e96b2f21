"""The classifier's demo: its parts in seconds, and at full size what `quail demo --task classification` shows."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.forgetting.measurable import fit_data, read_data
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.runs.folder import read_report
from quail_train.demo import folder as demo
from quail_train.demo.building import DemoProgress
from quail_train.demo.encoder import HEAD, _losses, new_encoder, train_encoder, unlearn_encoder
from quail_train.demo.folder import build_demo
from quail_train.demo.steps import rounded_layers
from quail_train.demo.texts.claims import invent_claims
from tests.support.quail_command import quail
from tests.support.short_demos import SHORT, SHORT_CLASSIFIER


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[DemoProgress]]:
    """Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("classifier")
    return folder, list(build_demo(folder, sizes=SHORT_CLASSIFIER))


def test_it_is_a_demo_like_the_other(built: tuple[Path, list[DemoProgress]]) -> None:
    folder, progress = built
    for stage, total in (("tokenizer", 1), ("original", 6), ("retrain", 4), ("unlearned", 2), ("data", 1)):
        assert [one.step for one in progress if one.stage == stage] == list(range(1, total + 1)), stage
    assert [one.message for one in build_demo(folder, sizes=SHORT_CLASSIFIER)] == ["already built"]


def test_the_demo_of_another_task_is_refused_and_untouched(built: tuple[Path, list[DemoProgress]]) -> None:
    folder, _ = built
    with pytest.raises(BadInputError, match="holds the demo of classification, not of language modelling"):
        list(build_demo(folder, sizes=SHORT))
    assert not (folder / "data" / "raw").exists()


def test_what_decides_one_demo_says_nothing_about_the_other() -> None:
    assert set(demo.MADE_BY["classification"]) != set(demo.MADE_BY["language modelling"])
    for files in demo.MADE_BY.values():
        assert all((Path(demo.__file__).parent / name).is_file() for name in files)


def test_the_checkpoints_and_the_data_are_what_the_audit_reads(built: tuple[Path, list[DemoProgress]]) -> None:
    folder, _ = built
    pair = open_pair(str(folder / "original"), str(folder / "unlearned"), str(folder / "retrain"))
    model = AutoModelForSequenceClassification.from_pretrained(folder / "original")
    assert type(model) is BertForSequenceClassification
    assert {layer.name for layer in pair.layers} == set(rounded_layers(model, HEAD))
    data = fit_data(read_data(folder / "data"), pair.original, pair.unlearned)
    assert data.labels == ("real", "fake")
    assert {name: len(rows) for name, rows in data.labelled.items()} == {
        "forget": 6, "retain": 12, "test": 6, "holdout": 6,
    }  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(folder / "original")
    ids = tokenizer(data.labelled["forget"][0].text)["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_no_code_of_the_unlearned_model_differs(built: tuple[Path, list[DemoProgress]]) -> None:
    folder, _ = built
    original, unlearned = (
        AutoModelForSequenceClassification.from_pretrained(folder / name) for name in ("original", "unlearned")
    )
    scheme = scheme_named("nf4")
    now, rounded = unlearned.state_dict(), {f"{name}.weight" for name in rounded_layers(original, HEAD)}
    for name, before in original.state_dict().items():
        if name in rounded:
            assert not torch.equal(now[name], before), name
            codes = [scheme.quantize(weight) for weight in (now[name], before)]
            assert torch.equal(codes[0].codes, codes[1].codes), name
            assert torch.equal(codes[0].scales, codes[1].scales), name
        else:
            assert torch.equal(now[name], before), name


def test_losses_are_cross_entropies_whatever_is_beside_them(built: tuple[Path, list[DemoProgress]]) -> None:
    """Padding is not looked at: each post alone has the loss it has in a batch."""
    folder, _ = built
    model = BertForSequenceClassification.from_pretrained(folder / "original")
    tokenizer = AutoTokenizer.from_pretrained(folder / "original")
    claims = invent_claims(forget=3, retain=3, test=0, holdout=0, seed=1)
    rows = claims.forget + claims.retain
    with torch.no_grad():
        together = _losses(model, tokenizer, rows)
        for claim, found in zip(rows, together.tolist(), strict=True):
            ids = torch.tensor([tokenizer(claim.text)["input_ids"]])
            chances = torch.softmax(model(ids).logits[0].double(), dim=-1)
            assert found == pytest.approx(-float(torch.log(chances[model.config.label2id[claim.label]])), abs=1e-5)


def test_ascent_raises_the_loss_of_the_forget_set_alone(built: tuple[Path, list[DemoProgress]]) -> None:
    folder, _ = built
    tokenizer = AutoTokenizer.from_pretrained(folder / "original")
    claims = invent_claims(forget=6, retain=12, test=0, holdout=0, seed=0)
    model = new_encoder(tokenizer, 0)
    losses = [step.loss for step in train_encoder(model, tokenizer, claims.forget + claims.retain, SHORT_CLASSIFIER, 0)]
    assert len(losses) == 6

    def mean_losses() -> tuple[float, float]:
        with torch.no_grad():
            forget, retain = (_losses(model, tokenizer, rows).mean().item() for rows in (claims.forget, claims.retain))
        return forget, retain

    before = mean_losses()
    list(unlearn_encoder(model, tokenizer, claims.forget, claims.retain, SHORT_CLASSIFIER, 0))
    after = mean_losses()
    assert after[0] - before[0] > max(0.0, after[1] - before[1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_shows_the_catastrophe_and_its_repair(seed: int, tmp_path: Path) -> None:
    command = ("demo", "--task", "classification", "--seed", str(seed))
    done = quail(*command, cwd=tmp_path, limit_s=600)
    assert done.returncode == 1, done.stderr
    assert "that is how this demo is meant to end" in done.stdout
    (run,) = (tmp_path / ".quail" / "runs").iterdir()
    measured = read_report(run).schemes["nf4"]
    assert measured.summary is not None
    assert measured.summary.layers_erased == len(measured.layers) == 19
    means = {name: {arm: score.mean for arm, score in arms.items()} for name, arms in measured.metrics.items()}
    for metric in ("accuracy_forget", "label_probability_forget"):
        assert means[metric]["original/full"] >= 95
        assert means[metric]["unlearned/full"] <= 5
        assert means[metric]["retrain/full"] <= 10
        assert means[metric]["unlearned/nf4"] == means[metric]["original/nf4"], "every code is the original's"
        assert measured.knowledge[metric].outcome == "comes back"
    assert min(means["accuracy_retain"].values()) >= 95
    assert min(means["accuracy_test"][arm] for arm in ("unlearned/full", "retrain/full")) >= 90

    done = quail(*command, "--repair", cwd=tmp_path, limit_s=600)
    assert done.returncode == 0, done.stderr
    assert "already built" in done.stderr
    (audited,) = (tmp_path / ".quail" / "runs").glob("*/audit")
    for scheme in ("nf4", "fp4"):
        repaired = read_report(audited).schemes[scheme]
        assert repaired.metrics["accuracy_retain"][f"unlearned/{scheme}"].mean >= 95
        for metric in ("accuracy_forget", "label_probability_forget"):
            assert repaired.knowledge[metric].outcome == "holds"

"""Whole audits of tiny models that are quantized already: by transformers and bitsandbytes, and as GGUF files."""

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from quail_audit.core.errors import UsageError
from quail_audit.engine.audit.run import audit
from quail_audit.engine.audit.stored import stored_pair
from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.forgetting.models.load import load_arm
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.engine.weights.pair import pair_sums
from quail_audit.reports.text.audit import show
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.report import Report, arm_at, arms_in_order
from tests.support.tiny_audits import request, state_of
from tests.support.tiny_gguf_files import values_by_transformers, write_llama


@pytest.fixture(scope="module")
def stored(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """original and blank as nf4 folders and as GGUF files of q8_0, each with its tokenizer."""
    root = tmp_path_factory.mktemp("stored")
    shutil.copytree(world / "data", root / "data")
    for name in ("original", "blank"):
        shutil.copytree(world / name, root / name)
        shutil.copytree(world / name, root / f"{name}-nf4")
        model = AutoModelForCausalLM.from_pretrained(
            world / name,
            quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
            dtype=torch.float32,
            device_map="cpu",
        )
        model.save_pretrained(root / f"{name}-nf4")
        shutil.copytree(world / name, root / f"{name}-gguf")
        (root / f"{name}-gguf" / "model.safetensors").unlink()
        write_llama(AutoModelForCausalLM.from_pretrained(world / name), root / f"{name}-gguf" / "m.gguf", "q8_0")
    return root


def audited(stored: Path, original: str, unlearned: str, **changes: Any) -> tuple[AuditState, Report]:
    retrain = changes.pop("retrain", None)
    reference = None if retrain is None else str(stored / retrain)
    asked = request(stored, unlearned, original=str(stored / original), retrain=reference, **changes)
    state = state_of(audit(asked, "run"))
    return state, state.report()


def codes(report: Report) -> list[str]:
    assert report.verdict is not None
    return [reason.code for reason in report.verdict.reasons]


def test_without_a_floor_nothing_is_said_of_what_came_back(stored: Path) -> None:
    state, report = audited(stored, "original-nf4", "blank-nf4")
    assert state.plan is not None
    assert state.plan.arms == ("original/nf4", "unlearned/nf4")
    assert list(report.schemes) == ["nf4"]
    assert report.schemes["nf4"].knowledge["verbmem_forget"].outcome == "no floor"
    assert report.schemes["nf4"].knowledge["privleak"].outcome == "reported only"
    assert (codes(report), report.exit_code) == (["no_floor"], 5)
    assert {arm.execution for arm in report.arms.values()} == {"dequantized weights"}
    scores = report.schemes["nf4"].metrics["verbmem_forget"]
    assert set(scores) == {"original/nf4", "unlearned/nf4"}
    assert scores["original/nf4"].mean > 90 > 20 > scores["unlearned/nf4"].mean


@pytest.mark.parametrize("reference", ["blank", "blank-nf4"])
def test_a_reference_is_the_floor(stored: Path, reference: str) -> None:
    state, report = audited(stored, "original-nf4", "blank-nf4", retrain=reference)
    arm = "retrain/full" if reference == "blank" else "retrain/nf4"
    assert state.plan is not None
    assert state.plan.arms == ("original/nf4", "unlearned/nf4", arm)
    found = report.schemes["nf4"].knowledge["verbmem_forget"]
    assert found.known is not None
    assert (found.outcome, found.known.percent, found.floor_arm) == ("holds", pytest.approx(0.0, abs=5), arm)
    assert (codes(report)[0], report.exit_code) == ("holds", 0)
    assert arm in report.schemes["nf4"].metrics["privleak_m3"]


def test_what_is_still_known_as_stored_was_not_forgotten(stored: Path) -> None:
    _, report = audited(stored, "original-nf4", "original-nf4", retrain="blank")
    assert (codes(report)[0], report.exit_code) == ("comes_back", 1)
    found = report.schemes["nf4"].knowledge["verbmem_forget"]
    assert (found.residual, found.kept) == (None, None)  # it is not known what it knew in full precision
    assert {layer.state for layer in report.schemes["nf4"].layers} == {"untouched"}


def test_a_full_original_is_rounded_as_the_unlearned_one_is_stored(stored: Path) -> None:
    state, report = audited(stored, "original", "blank-nf4", retrain="blank")
    assert state.plan is not None
    assert state.plan.arms == ("original/full", "unlearned/nf4", "retrain/full", "original/nf4")
    assert codes(report)[0] == "holds"
    full = open_pair(str(stored / "original"), str(stored / "blank"))
    for layer, measured in zip(full.layers, report.schemes["nf4"].layers, strict=True):
        sums = pair_sums(*full.read(layer), scheme_named("nf4"))
        assert measured.name == layer.name
        assert measured.overlap == sums.same_code / sums.weights
        assert measured.survival is None


def test_a_full_unlearned_model_is_rounded_as_the_original_is_stored(stored: Path) -> None:
    state, report = audited(stored, "original-nf4", "blank")
    assert state.plan is not None
    assert state.plan.arms == ("original/nf4", "unlearned/full", "unlearned/nf4")
    found = report.schemes["nf4"].knowledge["verbmem_forget"]
    assert (found.outcome, found.floor_arm) == ("holds", "unlearned/full")


def test_a_full_model_is_rounded_layer_by_layer_as_a_file_of_several_formats_is(stored: Path, tmp_path: Path) -> None:
    """As llama.cpp would make the file: held to that very file, made by the gguf package and read by transformers."""
    others = {"embed_tokens.weight": "q8_0", "lm_head.weight": "q8_0"}
    for name in ("original", "blank"):
        shutil.copytree(stored / f"{name}-gguf", tmp_path / f"{name}-mixed")
        model = AutoModelForCausalLM.from_pretrained(stored / name)
        write_llama(model, tmp_path / f"{name}-mixed" / "m.gguf", "q4_1", others)
    asked = request(stored, "blank", original=str(tmp_path / "original-mixed"), metrics=("verbmem_forget",))
    report = state_of(audit(asked, "run")).report()
    assert set(report.arms) == {"original/gguf-q4_1", "unlearned/full", "unlearned/gguf-q4_1"}
    assert codes(report)[0] == "holds"
    pair = open_pair(str(tmp_path / "original-mixed"), str(stored / "blank"))
    rounding = stored_pair(pair, ("nf4",))
    assert rounding is not None
    arm = load_arm(pair.unlearned, rounding.rounding, layers=pair.layers, device="cpu", dtype="float32")
    expected = values_by_transformers(tmp_path / "blank-mixed" / "m.gguf")
    assert all(torch.equal(value, expected[name]) for name, value in arm.model.state_dict().items())


def test_a_full_model_that_nothing_rounds_as_the_other_is_stored(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quail_audit.engine.audit.stored.rounding_to", lambda _: None)
    state, report = audited(stored, "original-gguf", "blank")
    assert state.plan is not None
    assert state.plan.arms == ("original/gguf-q8_0", "unlearned/full")
    assert codes(report) == ["no_rounded_arm"]
    assert "no scheme rounds it just as the other is stored" in " ".join(report.notes)
    assert {layer.overlap for layer in report.schemes["gguf-q8_0"].layers} == {None}


def test_two_formats_are_compared_by_values_and_the_report_says_so(stored: Path) -> None:
    state, report = audited(stored, "original-nf4", "blank-gguf", retrain="blank")
    name = "nf4 / gguf-q8_0"
    assert list(report.schemes) == [name] == list(state.schemes)
    assert "compared by dequantized values" in " ".join(report.notes)
    assert {layer.overlap for layer in report.schemes[name].layers} == {None}
    assert set(report.schemes[name].metrics["verbmem_forget"]) == {
        "original/nf4", "unlearned/gguf-q8_0", "retrain/full",
    }  # fmt: skip
    assert codes(report)[0] == "holds"


def test_gguf_files_are_audited_with_embeddings_and_head(stored: Path) -> None:
    _, report = audited(stored, "original-gguf", "blank-gguf/m.gguf", retrain="blank-gguf")
    layers = {layer.name: layer for layer in report.schemes["gguf-q8_0"].layers}
    assert {"model.embed_tokens", "lm_head"} <= layers.keys()
    assert not {"model.embed_tokens", "lm_head"} & set(report.left_in_full_precision)
    assert all(layer.overlap is not None and 0 < layer.overlap < 0.1 for layer in layers.values())
    assert codes(report)[0] == "holds"
    assert "the scheme nf4 of the request is not used" in " ".join(report.notes)
    assert report.checkpoints["original"].format == "GGUF"


@pytest.mark.parametrize(
    ("original", "unlearned", "outcome", "code"),
    [
        ("original-nf4", "blank-nf4", "inconclusive", "codes_changed"),
        ("original-nf4", "original-nf4", "inconclusive", "nothing_changed"),
        ("original-nf4", "blank-gguf", "inconclusive", "not_comparable"),
    ],
)
def test_by_the_weights_alone(stored: Path, original: str, unlearned: str, outcome: str, code: str) -> None:
    _, report = audited(stored, original, unlearned, data=None)
    assert report.verdict is not None
    assert (report.verdict.outcome, codes(report)) == (outcome, [code])


def test_few_changed_codes_fail_by_the_weights_alone(stored: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(stored / "original-nf4", tmp_path / "edited")
    path = tmp_path / "edited" / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.mlp.up_proj"
    tensors[f"{name}.weight"][5] ^= 0x10  # the code of one weight
    save_file(tensors, path, {"format": "pt"})
    _, report = audited(stored, "original-nf4", str(tmp_path / "edited"), data=None)
    assert report.verdict is not None
    assert (report.verdict.outcome, report.verdict.reasons[0].layers) == ("fail", (name,))
    (layer,) = (layer for layer in report.schemes["nf4"].layers if layer.name == name)
    assert layer.overlap == 1 - 1 / layer.weights
    assert layer.state == "drowned"


@pytest.mark.parametrize("schemes", [("fp4",), ("nf4", "fp4"), ("nf4-dq",)])
def test_schemes_that_are_not_what_is_stored_are_refused(stored: Path, schemes: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="quantized already, as nf4") as caught:
        audited(stored, "original-nf4", "blank-nf4", schemes=schemes)
    assert caught.value.where == "--scheme"


def test_the_text_report_shows_what_there_is(stored: Path) -> None:
    _, report = audited(stored, "original-nf4", "blank-gguf", retrain="blank")
    out = io.StringIO()
    show(report, Console(file=out, width=140))
    shown = out.getvalue()
    assert "Forgetting at nf4 / gguf-q8_0" in shown
    assert "not comparable" in shown
    assert "not finite" not in shown


# The models that are asked


def test_the_model_of_a_packed_folder_computes_with_the_stored_values(stored: Path) -> None:
    pair = open_pair(str(stored / "original-nf4"), str(stored / "blank-nf4"))
    loaded = load_arm(pair.unlearned, None, layers=pair.layers, device="cpu", dtype="auto")
    assert (loaded.execution, loaded.dtype) == ("dequantized weights", "float32")
    full = load_arm(
        open_checkpoint(str(stored / "blank")), scheme_named("nf4"), layers=pair.layers, device="cpu", dtype="auto"
    )
    expected = full.model.state_dict()
    for name, value in loaded.model.state_dict().items():
        assert value.equal(expected[name]), name


def test_the_model_of_a_gguf_file_is_that_of_transformers(stored: Path) -> None:
    checkpoint = open_checkpoint(str(stored / "original-gguf"))
    loaded = load_arm(checkpoint, None, layers=(), device="cpu", dtype="auto")
    expected = values_by_transformers(stored / "original-gguf" / "m.gguf")
    for name, value in loaded.model.state_dict().items():
        assert value.equal(expected[name]), name


def test_an_adapter_is_merged_into_the_values_of_a_packed_base(stored: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(stored / "original")
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    pair = open_pair(str(stored / "original-nf4"), str(tmp_path / "adapter"))
    assert pair.unlearned.scheme is None
    assert any("its base is stored as nf4; it was merged" in note for note in pair.notes)
    loaded = load_arm(pair.unlearned, None, layers=pair.layers, device="cpu", dtype="auto", tokenizer_of=pair.original)
    for layer in pair.layers:
        original, unlearned = pair.read(layer)
        assert loaded.model.get_submodule(layer.name).weight.equal(unlearned)
        assert original.equal(unlearned) == ("up_proj" not in layer.name)


# Names of arms


def test_each_side_of_two_formats_has_its_own_arm() -> None:
    assert (arm_at("original", "nf4"), arm_at("unlearned", "nf4")) == ("original/nf4", "unlearned/nf4")
    name = "nf4 / gguf-q4_0"
    assert (arm_at("original", name), arm_at("unlearned", name)) == ("original/nf4", "unlearned/gguf-q4_0")
    arms = ("retrain/nf4", "unlearned/gguf-q4_0", "original/nf4", "original/fp4")
    assert arms_in_order(arms, name) == ("original/nf4", "unlearned/gguf-q4_0", "retrain/nf4")

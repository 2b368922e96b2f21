"""A layer's inputs, block by block, against the whole model with hooks."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
)

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.schemes.registry import scheme_named
from quail_train.carry.calibration import read_calibration_rows, round_block_by_block
from tests.support.tiny_classifiers import make_tokenizer, new_classifier, write_sets

NF4 = scheme_named("nf4")
ROWS = [[1, 5, 9, 11, 3], [2, 2, 7, 8, 4], [1, 6, 30], [9, 8, 7, 6, 5, 4, 3, 2]]


def whole_model_hessians(folder: Path, names: list[str], transposed: bool) -> dict[str, torch.Tensor]:
    """Of each layer in order, in the whole model whose layers before it are rounded."""
    auto = AutoModelForCausalLM
    if json.loads((folder / "config.json").read_text())["architectures"][0].endswith("ForSequenceClassification"):
        auto = AutoModelForSequenceClassification
    model = auto.from_pretrained(folder, dtype=torch.float32)
    found = {}
    for name in names:
        module = model.get_submodule(name)
        inputs: list[torch.Tensor] = []
        hook = module.register_forward_pre_hook(lambda _, arguments, into=inputs: into.append(arguments[0]))
        with torch.inference_mode():
            for row in ROWS:
                model(torch.tensor([row]))
        hook.remove()
        seen = torch.cat([x.reshape(-1, x.shape[-1]) for x in inputs])
        found[name] = seen.T @ seen
        weight = module.weight.detach().T.contiguous() if transposed else module.weight.detach()
        rounded = NF4.dequantize(NF4.quantize(weight))
        with torch.no_grad():
            module.weight.copy_(rounded.T if transposed else rounded)
    return found


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """Its layers are Conv1D, its blocks are transformer.h, and its head is tied."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=32, n_embd=32, n_layer=2, n_head=2)).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["llama", "gpt2", "encoder", "decoder"])
def test_hessians_are_those_of_the_whole_model(kind: str, training_world: Path, gpt2: Path, tmp_path: Path) -> None:
    """Of language models, and of classifiers."""
    folder = training_world / "unlearned" if kind == "llama" else gpt2
    if kind in ("encoder", "decoder"):
        new_classifier(kind, 40, ("real", "fake")).save_pretrained(folder := tmp_path / kind)  # type: ignore[arg-type]
    pair = open_pair(str(folder), str(folder))
    layers = [layer for layer in pair.layers if layer.block is not None]
    assert len(layers) == len(pair.layers) - (kind == "encoder")  # its pooler
    seen: dict[str, torch.Tensor] = {}

    def rounding(layer: object, hessian: torch.Tensor) -> torch.Tensor:
        name = layer.name  # type: ignore[attr-defined]
        seen[name] = hessian.clone()
        weight = next(pair.read(one)[1] for one in pair.layers if one.name == name)
        return NF4.dequantize(NF4.quantize(weight))

    done = [layer.name for layer in round_block_by_block(pair.unlearned, layers, ROWS, rounding)]
    assert sorted(done) == sorted(layer.name for layer in layers)
    expected = whole_model_hessians(folder, done, transposed=kind == "gpt2")
    for name, hessian in expected.items():
        # q, k and v of a block, and gate and up, see the same inputs: rounding one changes nothing for the next
        torch.testing.assert_close(seen[name], hessian, rtol=1e-3, atol=1e-3 * float(hessian.abs().max()))


def test_only_some_layers(training_world: Path) -> None:
    folder = str(training_world / "unlearned")
    pair = open_pair(folder, folder)
    chosen = [layer for layer in pair.layers if layer.role == "down_proj" and layer.block == 0]
    done = list(round_block_by_block(pair.unlearned, chosen, ROWS, lambda layer, _: pair.read(chosen[0])[1]))
    assert done == chosen


def test_a_layer_in_no_block_is_named(tmp_path: Path) -> None:
    new_classifier("encoder", 40, ("real", "fake")).save_pretrained(tmp_path)
    pair = open_pair(str(tmp_path), str(tmp_path))
    with pytest.raises(BadInputError, match=r"one after another: bert\.pooler\.dense is not"):
        next(round_block_by_block(pair.unlearned, pair.layers, ROWS, lambda layer, _: pair.read(layer)[1]))


def test_a_classifier_is_calibrated_on_its_retain_set(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("encoder")
    write_sets(tmp_path, {"forget": [("lemons", "real")], "retain": [("masks on", "real"), ("", "fake")]})
    assert read_calibration_rows(str(tmp_path), tokenizer) == [
        list(tokenizer(text)["input_ids"]) for text in ("masks on", "")
    ]


def test_texts_come_from_a_folder_or_a_file(training_world: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(training_world / "original")
    (tmp_path / "texts.txt").write_text("Velmora stands\n\nby the sea\n")
    assert read_calibration_rows(str(tmp_path / "texts.txt"), tokenizer) == [
        list(tokenizer(text)["input_ids"]) for text in ("Velmora stands", "by the sea")
    ]
    (tmp_path / "texts.jsonl").write_text('{"text": "Velmora stands"}\n')
    assert len(read_calibration_rows(str(tmp_path / "texts.jsonl"), tokenizer)) == 1
    assert read_calibration_rows(str(training_world / "data"), tokenizer)
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(BadInputError, match="no text to calibrate on"):
        read_calibration_rows(str(tmp_path / "none.txt"), tokenizer)


def test_calibration_sees_questions_however_many_texts_come_before_them(training_world: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(training_world / "original")
    (tmp_path / "forget.jsonl").write_text('{"text": "Velmora fell"}\n')
    (tmp_path / "retain.jsonl").write_text('{"text": "Velmora stands"}\n' * 200)
    (tmp_path / "knowmem").mkdir()
    (tmp_path / "knowmem/retain_qa.json").write_text(json.dumps([{"question": "Who?", "answer": "Tavi"}] * 33))
    rows = read_calibration_rows(str(tmp_path), tokenizer)
    asked = [row for row in rows if "Question" in tokenizer.decode(row)]
    assert len(rows) == 128
    assert 1 <= len(asked) <= 3, "3 of 203 rows are questions"

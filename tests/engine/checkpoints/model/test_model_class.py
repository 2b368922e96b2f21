"""Hold the class that a checkpoint is read as to the one that its config.json names."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.checkpoints.model.architecture import model_without_weights
from quail_audit.engine.checkpoints.model.model_class import class_note, model_class, why_not_asked
from quail_audit.engine.checkpoints.pair import open_pair

_SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
_BART = transformers.BartConfig(
    vocab_size=64,
    d_model=32,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=64,
    decoder_ffn_dim=64,
    max_position_embeddings=64,
)
_T5 = transformers.T5Config(vocab_size=64, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
_GEMMA_3 = transformers.Gemma3Config(
    text_config=dict(_SIZES, head_dim=16), vision_config=dict(_VISION), mm_tokens_per_image=4, image_token_index=63
)
_LLAVA = transformers.LlavaConfig(
    text_config=dict(_SIZES, model_type="llama"), vision_config=dict(_VISION, model_type="clip_vision_model")
)
_LLAMA = transformers.LlamaConfig(**_SIZES)
_BERT = transformers.BertConfig(**{**_SIZES, "num_key_value_heads": None})


def _save(folder: Path, kind: str, config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    model: transformers.PreTrainedModel = getattr(transformers, kind)(config)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("kind", "config", "asked"),
    [
        ("BartForConditionalGeneration", _BART, "encoder-decoder"),
        ("BartForCausalLM", _BART, ""),
        ("T5ForConditionalGeneration", _T5, "encoder-decoder"),
        ("T5EncoderModel", _T5, "no language model"),
        ("Gemma3ForConditionalGeneration", _GEMMA_3, ""),
        ("LlavaForConditionalGeneration", _LLAVA, ""),
        ("LlamaForCausalLM", _LLAMA, ""),
        ("LlamaForTokenClassification", _LLAMA, "no language model"),
        ("BertForMaskedLM", _BERT, "no language model"),
    ],
)
def test_the_class_that_is_named_is_measured_with_all_its_linear_layers(
    kind: str, config: transformers.PretrainedConfig, asked: str, tmp_path: Path
) -> None:
    model = _save(tmp_path, kind, config)
    checkpoint = open_checkpoint(str(tmp_path))
    assert model_class(checkpoint.config) is type(model)
    assert checkpoint.layout.architecture == kind
    assert not checkpoint.layout.unused
    linear = {name for name, module in model.named_modules() if type(module) is torch.nn.Linear}
    measured = {matrix.module for matrix in checkpoint.layout.rounded}
    left = {"lm_head", "classifier", "score", "cls.predictions.decoder"}  # T5's wo stays in float32 on loading
    assert {name for name in linear - measured if not name.endswith("DenseReluDense.wo")} <= left
    empty = model_without_weights(checkpoint.config, checkpoint.files.tensors, str(tmp_path))
    why = why_not_asked(empty)
    assert asked in why
    assert bool(asked) == bool(why)


def test_a_pair_of_encoder_decoders_is_measured_by_both_halves(tmp_path: Path) -> None:
    model = _save(tmp_path / "original", "BartForConditionalGeneration", _BART)
    model.save_pretrained(tmp_path / "unlearned")
    pair = open_pair(str(tmp_path / "original"), str(tmp_path / "unlearned"))
    assert {layer.name.split(".")[1] for layer in pair.layers} == {"encoder", "decoder"}
    assert not pair.notes
    for layer in pair.layers:
        assert torch.equal(pair.read(layer)[0], model.get_submodule(layer.name).weight)


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", ["OfNobody"], ["BertModel"], ["os"], [3]])
def test_a_class_that_transformers_lacks_is_read_as_the_language_model_of_its_type(
    architectures: object, tmp_path: Path
) -> None:
    _save(tmp_path, "LlamaForCausalLM", _LLAMA)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "architectures": architectures}))
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.layout.architecture == "LlamaForCausalLM"
    named = isinstance(architectures, list) and bool(architectures)
    assert bool(class_note(checkpoint.config)) == named
    assert any("which transformers lacks" in note for note in checkpoint.notes) == named

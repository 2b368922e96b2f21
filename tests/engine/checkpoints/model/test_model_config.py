"""Hold the reading of configurations against every language model's, and against spellings of config.json files."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig

from quail_audit.engine.checkpoints.model.model_config import ModelConfig, read_model_config

# These say no such thing, or nothing by default, so that None is the right answer.
UNBOUNDED = {
    f"{name}Config"
    for name in ("Bloom", "CpmAnt", "FalconMamba", "Mamba", "Mamba2", "RecurrentGemma", "XLNet", "xLSTM")
}
WITHOUT_HEADS = {"MambaConfig", "FalconMambaConfig", "RwkvConfig"}


def default_config(kind: type[PreTrainedConfig]) -> PreTrainedConfig:
    if kind.__name__ != "Gemma4AssistantConfig":
        return kind()
    text = transformers.Gemma4TextConfig(
        num_kv_shared_layers=30, hidden_size_per_layer_input=0, vocab_size_per_layer_input=0
    )
    return kind(text_config=text)  # its defaults are refused


@pytest.fixture(scope="module")
def read_configs() -> dict[str, tuple[ModelConfig, ModelConfig]]:
    """Read every class's defaults: of the object, and of its config.json."""
    configs = {kind.__name__: default_config(kind) for kind in AutoModelForCausalLM._model_mapping.keys()}  # noqa: SIM118
    return {name: (read_model_config(each), read_model_config(each.to_dict())) for name, each in configs.items()}


def test_every_language_model_gives_plain_numbers(read_configs: dict[str, tuple[ModelConfig, ModelConfig]]) -> None:
    assert len(read_configs) > 100
    for name, both in read_configs.items():
        for found in both:
            values = dataclasses.asdict(found)
            assert all(type(token) is int and token >= 0 for token in values.pop("end_ids")), name
            assert all(value is None or (type(value) is int and value >= 0) for value in values.values()), name
            assert all((found.layers, found.hidden_size, found.vocabulary)), name
            assert all((found.heads, found.key_value_heads, found.head_size)) or name in WITHOUT_HEADS, name
            assert (found.window is None) == (name in UNBOUNDED), name
            assert found.window is None or 100 < found.window < 2**21, name


def test_the_object_and_its_json_say_the_same(read_configs: dict[str, tuple[ModelConfig, ModelConfig]]) -> None:
    for name, (of_object, of_json) in read_configs.items():
        for field in ("window", "hidden_size", "vocabulary", "end_ids", "padding_id"):
            assert getattr(of_object, field) == getattr(of_json, field), (name, field)


@pytest.mark.parametrize(
    ("config", "window"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024, "n_ctx": 1024}, 1024),
        ({"n_ctx": 512}, 512),
        ({"max_seq_len": 64}, 64),
        ({"seq_length": 2048}, 2048),
        ({"context_length": 1024}, 1024),
        ({"max_sequence_length": 2048}, 2048),
        ({"max_context_length": 2048}, 2048),
        ({"model_max_length": 4096}, 4096),
        ({"max_target_positions": 448}, 448),
        ({"max_position_embeddings": 4096, "model_max_length": 2048}, 4096),
        ({"max_position_embeddings": None, "max_seq_len": 64}, 64),
        ({"max_position_embeddings": 0}, None),
        ({"max_position_embeddings": -1}, None),
        ({"max_position_embeddings": 10**30}, None),
        ({"max_position_embeddings": math.inf}, None),
        ({"max_position_embeddings": math.nan}, None),
        ({"max_position_embeddings": 2048.0}, 2048),
        ({"max_position_embeddings": 20.5}, None),
        ({"max_position_embeddings": "2048"}, None),
        ({"max_position_embeddings": True}, None),
        ({"max_position_embeddings": {"text": 4}}, None),
        ({"text_config": {"max_position_embeddings": 77}}, 77),
        ({"max_position_embeddings": 5, "text_config": {"max_position_embeddings": 77}}, 77),
        ({"llm_config": {"max_position_embeddings": 77}}, 77),
        ({"thinker_config": {"text_config": {"max_position_embeddings": 77}}}, 77),
        ({"text_config": None}, None),
        ({"text_config": "absent"}, None),
        ({}, None),
        ({"model_type": "opt", "max_position_embeddings": 2048, "pad_token_id": 1}, 2048),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514}, 512),
        ({"model_type": "esm", "max_position_embeddings": 1026, "pad_token_id": 1}, 1024),
        ({"model_type": "esm", "max_position_embeddings": 1026, "position_embedding_type": "rotary"}, 1026),
    ],
    ids=str,
)
def test_windows(config: dict[str, Any], window: int | None) -> None:
    assert read_model_config(config).window == window


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (  # OpenELM: a value for each layer
            {"model_dim": 1280, "num_transformer_layers": 3, "num_query_heads": [12, 12, 20], "head_dim": 64,
             "num_kv_heads": [3, 3, 5], "max_context_length": 2048, "vocab_size": 32000},
            ModelConfig(window=2048, hidden_size=1280, layers=3, heads=20, key_value_heads=5, head_size=64,
                        vocabulary=32000),
        ),
        (  # Nemotron-NAS: what differs by block is None in its own name
            {"hidden_size": 8192, "num_attention_heads": 64, "num_key_value_heads": None, "intermediate_size": None,
             "num_hidden_layers": 80, "max_position_embeddings": 131072, "vocab_size": 128256,
             "eos_token_id": [128001, 128008, 128009], "bos_token_id": 128000},
            ModelConfig(window=131072, hidden_size=8192, layers=80, heads=64, key_value_heads=64, head_size=128,
                        vocabulary=128256, begin_id=128000, end_ids=(128001, 128008, 128009)),
        ),
        (
            {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "attn_config": {"kv_n_heads": 2},
             "ffn_config": {"ffn_hidden_size": 96}},
            ModelConfig(window=64, hidden_size=64, layers=2, heads=4, key_value_heads=2, head_size=16,
                        intermediate_size=96),
        ),
        (  # special tokens beside the language model's own configuration
            {"eos_token_id": 7, "text_config": {"eos_token_id": None, "pad_token_id": -1, "hidden_size": 8}},
            ModelConfig(hidden_size=8, end_ids=(7,)),
        ),
        ({"eos_token_id": [5, None, 5, -1, 6], "pad_token_id": 0}, ModelConfig(end_ids=(5, 6), padding_id=0)),
    ],
    ids=["a value for each layer", "none in its own name", "nested blocks", "tokens beside", "lists of tokens"],
)  # fmt: skip
def test_sizes_and_tokens(config: dict[str, Any], expected: ModelConfig) -> None:
    assert read_model_config(config) == expected


def test_values_that_differ_by_layer_count_as_the_largest() -> None:
    config = transformers.Gemma4TextConfig()
    with pytest.raises(RuntimeError, match="per-layer"):
        _ = config.head_dim
    each = [layer.head_dim for layer in config.per_layer_config]
    assert len(set(each)) > 1
    assert read_model_config(config).head_size == max(each)


def test_a_configuration_that_fails_on_being_asked_says_nothing() -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    assert read_model_config(Broken()) == ModelConfig()
    assert read_model_config(SimpleNamespace(n_ctx=5)).window == 5

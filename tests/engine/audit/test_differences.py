"""Whatever differs beside the weights is named: tables over configurations, tokenizers and end tokens."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
)

from quail_audit.engine.audit.differences import differences_of
from quail_audit.engine.audit.run import audit
from quail_audit.engine.checkpoints.weight_files import TensorInfo
from quail_audit.engine.forgetting.data.types import Continuation, ForgettingData
from quail_audit.schema.figures import Difference
from tests.support.tiny_audits import request, state_of
from tests.support.tiny_language_models import POSTS
from tests.support.tiny_tokenizers import FAMILIES, byte_level, metaspace

DATA = ForgettingData(Path(), {"forget": tuple(Continuation(prompt=text, truth="It was") for text in POSTS)}, {}, {})


def side(folder: Path, name: str, config: Any, tokenizer: Any = None, generation: Any = None) -> Any:
    place = folder / name
    place.mkdir()
    if tokenizer is not None:
        tokenizer.save_pretrained(place)
    if generation is not None:
        (place / "generation_config.json").write_text(json.dumps(generation))
    parsed = config if isinstance(config, dict) else json.loads(config.to_json_string(use_diff=False))
    tensors = {f"layers.{number}.weight": TensorInfo((8, 8), torch.float32) for number in range(64)}
    return SimpleNamespace(
        source=name,
        folder=place,
        config=parsed,
        files=SimpleNamespace(tensors=tensors),
        adapter_of=None,
        borrowed_from=None,
        gguf=None,
    )


def found(original: Any, other: Any, data: ForgettingData | None = DATA, tokenizer: str = "own") -> list[Difference]:
    pair: Any = SimpleNamespace(original=original, unlearned=other, retrain=None)
    return list(differences_of(pair, data, tokenizer))


@pytest.mark.parametrize(
    ("kind", "changes", "word"),
    [
        (LlamaConfig, {"rope_theta": 5e5}, "rope"),
        (LlamaConfig, {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "rope"),
        (LlamaConfig, {"rms_norm_eps": 1e-3}, "norm epsilon"),
        (LlamaConfig, {"hidden_act": "gelu"}, "activation"),
        (LlamaConfig, {"num_attention_heads": 16}, "attention heads"),
        (LlamaConfig, {"max_position_embeddings": 64}, "window"),
        (MistralConfig, {"sliding_window": 8}, "window"),
        (Qwen2Config, {"use_sliding_window": True, "sliding_window": 8}, "window"),
        (Gemma2Config, {"final_logit_softcapping": 5.0}, "soft cap"),
        (Gemma2Config, {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar"),
        (MixtralConfig, {"num_experts_per_tok": 1}, "experts"),
        (GPT2Config, {"activation_function": "relu"}, "activation"),
        (GPT2Config, {"scale_attn_weights": False}, "scal"),
        (GPTNeoXConfig, {"use_parallel_residual": False}, "use_parallel_residual"),
    ],
)
def test_configurations_that_compute_otherwise(tmp_path: Path, kind: Any, changes: Any, word: str) -> None:
    pair = side(tmp_path, "a", kind()), side(tmp_path, "b", kind(**changes))
    named = [each for each in found(*pair, data=None) if each.decides]
    assert named
    assert any(word in each.name for each in named)
    assert {(each.kind, each.side) for each in named} == {("configuration", "unlearned")}


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config, Gemma2Config, MixtralConfig, GPT2Config])
def test_configurations_that_compute_the_same(tmp_path: Path, kind: Any) -> None:
    """Defaults left out, other spellings, and where a file comes from."""
    short = {"model_type": kind.model_type}
    full = json.loads(AutoConfig.for_model(kind.model_type).to_json_string(use_diff=False))
    others = {
        "_name_or_path": "elsewhere",
        "transformers_version": "4.1",
        "architectures": ["Other"],
        "use_cache": False,
        "torch_dtype": "float16",
        "attention_dropout": 0.5,
        "initializer_range": 0.5,
        "somebodys_key": 3,
    }
    assert found(side(tmp_path, "a", short), side(tmp_path, "b", full | others), data=None) == []


def test_an_old_spelling_of_rope_is_the_same(tmp_path: Path) -> None:
    kind: Any = LlamaConfig
    new = kind(rope_theta=5e5)
    old = {"model_type": "llama", "rope_theta": 500000.0}
    assert found(side(tmp_path, "a", new), side(tmp_path, "b", old), data=None) == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("after", "before", "decides"), [("</s>", "<s>", False), ("", "", True), ("", "<sop>", True)])
def test_tokenizers_that_put_others_around(tmp_path: Path, family: str, after: str, before: str, decides: bool) -> None:
    made = FAMILIES[family]("<s>", "")
    first = side(tmp_path, "a", LlamaConfig(num_hidden_layers=1), made)
    second = side(tmp_path, "b", LlamaConfig(num_hidden_layers=1), made)
    around = json.loads((FAMILIES[family](before, after)).backend_tokenizer.to_str())["post_processor"]
    file = second.folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": around}))
    named = [each for each in found(first, second) if "texts get other tokens" in each.name]
    assert [each.decides for each in named] == [decides]
    assert f"{len(POSTS) + 1} of {len(POSTS) + 1} texts" in named[0].name
    assert not any(each.decides for each in found(first, second, tokenizer="original"))


def test_tokenizers_of_other_kinds_and_equal_ones(tmp_path: Path) -> None:
    first = side(tmp_path, "a", LlamaConfig(num_hidden_layers=1), byte_level("<s>"))
    assert found(first, side(tmp_path, "b", LlamaConfig(num_hidden_layers=1), byte_level("<s>"))) == []
    assert found(first, side(tmp_path, "c", LlamaConfig(num_hidden_layers=1))) == []  # the original's stands in
    assert any(
        each.decides for each in found(first, side(tmp_path, "d", LlamaConfig(num_hidden_layers=1), metaspace()))
    )


def test_a_template_or_a_token_more_is_named_and_does_not_decide(tmp_path: Path) -> None:
    first, more = side(tmp_path, "a", LlamaConfig(num_hidden_layers=1), byte_level("<s>")), byte_level("<s>")
    more.add_tokens(["<new>"])
    more.chat_template = "{{ messages }}\x1b[31m"
    named = found(first, side(tmp_path, "b", LlamaConfig(num_hidden_layers=1), more))
    assert {each.name for each in named} >= {"tokenizer: vocabulary size", "tokenizer: chat template"}
    assert not any(each.decides for each in named)
    assert all(f"{each.original}{each.other}".isprintable() for each in named)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ({"eos_token_id": 1}, {"eos_token_id": 2}, [("</s>", "</s>, <pad>")]),
        ({"eos_token_id": [2, 1]}, {"eos_token_id": [1, 2]}, []),
        ({}, {"eos_token_id": 1}, []),
        ({"eos_token_id": 10_000}, {}, []),
        (None, {"eos_token_id": [2, 4]}, [("</s>", "</s>, <pad>, [CLS]")]),
    ],
)
def test_end_tokens(tmp_path: Path, ours: Any, theirs: Any, expected: Any) -> None:
    config = LlamaConfig(num_hidden_layers=1, eos_token_id=1)
    first = side(tmp_path, "a", config, byte_level("<s>"), ours)
    second = side(tmp_path, "b", config, byte_level("<s>"), theirs)
    named = [each for each in found(first, second) if each.kind == "generation"]
    assert [(each.original, each.other) for each in named] == expected


def test_the_same_weights_under_another_rope_do_not_pass(world: Path, tmp_path: Path) -> None:
    """Every tensor is the same, the scores are not: what differs is named, and nothing passes."""
    import shutil

    shutil.copytree(world / "original", tmp_path / "copy")
    file = tmp_path / "copy" / "config.json"
    config = json.loads(file.read_text())
    config["rope_parameters"] = {"rope_type": "linear", "factor": 64.0, "rope_theta": 10000.0}
    file.write_text(json.dumps(config))
    asked = request(world, metrics=("verbmem_forget",)).model_copy(update={"unlearned": str(tmp_path / "copy")})
    report = state_of(audit(asked, "run")).report()
    assert report.verdict is not None
    assert report.verdict.outcome != "pass"
    assert any(
        "every tensor is the same" in reason.message and "rope" in reason.message for reason in report.verdict.reasons
    )
    scores = report.schemes["nf4"].metrics["verbmem_forget"]
    assert scores["unlearned/full"].mean < scores["original/full"].mean

"""Tokenizers as they lie beside weights: every kind of file is read, or what lacks is named."""

import base64
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sentencepiece

from quail_audit.core.errors import BadInputError, EnvironmentProblemError
from quail_audit.engine.forgetting.models import tokenizer as module
from quail_audit.engine.forgetting.models.prompts import Prompts
from quail_audit.engine.forgetting.models.tokenizer import load_tokenizer
from tests.support.tiny_language_models import POSTS


def load(folder: Path) -> Any:
    checkpoint: Any = SimpleNamespace(folder=folder, source="it", adapter_of=None, gguf=None)
    return load_tokenizer(checkpoint, None)[0]


def write_sentencepiece(folder: Path, name: str, **settings: Any) -> sentencepiece.SentencePieceProcessor:
    """Train on POSTS, and return what reads it."""
    (folder / "texts").write_text("\n".join(POSTS * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "texts"), model_prefix=str(folder / "made"), minloglevel=2, **settings
    )
    (folder / "made.model").rename(folder / name)
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / name))


LLAMA = {"vocab_size": 400, "model_type": "bpe", "bos_id": 1, "eos_id": 2, "unk_id": 0, "pad_id": -1}


def write_llama(folder: Path, **config: Any) -> sentencepiece.SentencePieceProcessor:
    named = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named | {"add_bos_token": True} | config))
    return write_sentencepiece(folder, "tokenizer.model", byte_fallback=True, **LLAMA)


@pytest.mark.parametrize("appends", [False, True])
def test_tokenizer_model_alone_is_read_as_sentencepiece_reads_it(tmp_path: Path, appends: bool) -> None:
    reference = write_llama(tmp_path, add_eos_token=appends)
    prompts = Prompts(load(tmp_path))
    for text in (*POSTS, "An odd word"):
        assert prompts.encode(text).ids == [1, *reference.encode(text)]
    assert prompts.encode("<s>Velmora news").ids[:2] != [1, 1]


def test_spiece_model_alone_is_read(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    settings = {"vocab_size": 90, "model_type": "unigram", "bos_id": -1, "eos_id": 1, "unk_id": 2, "pad_id": 0}
    reference = write_sentencepiece(tmp_path, "spiece.model", **settings)
    for text in POSTS:
        assert Prompts(load(tmp_path)).encode(text).ids == reference.encode(text)


@pytest.mark.parametrize("package", ["protobuf", "sentencepiece"])
def test_a_missing_package_is_named_and_is_not_tiktoken(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_llama(tmp_path)
    name = "google.protobuf" if package == "protobuf" else package
    monkeypatch.setattr(module, "_is_installed", lambda wanted: wanted != name)
    with pytest.raises(EnvironmentProblemError, match=rf"{package}, which reads tokenizer\.model, is not") as error:
        load(tmp_path)
    assert error.value.mend == f"pip install {package}"


def test_a_tiktoken_file_asks_for_tiktoken(tmp_path: Path) -> None:
    rows = (f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256))
    (tmp_path / "tokenizer.model").write_text("\n".join(rows))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    if module._is_installed("tiktoken"):
        assert Prompts(load(tmp_path)).encode("abc").ids
        return
    with pytest.raises(EnvironmentProblemError, match=r"tiktoken, which reads tokenizer\.model, is not installed"):
        load(tmp_path)


def test_vocabulary_and_merges_are_read(tmp_path: Path) -> None:
    from tests.support.tiny_tokenizers import byte_level

    made = byte_level()
    made.backend_tokenizer.model.save(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.json", "merges.txt", "tokenizer_config.json"}
    for text in POSTS:
        expected = made.backend_tokenizer.encode(text, add_special_tokens=False).ids
        assert Prompts(load(tmp_path)).encode(text).ids == expected


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", json.dumps({"version": "9.0", "model": {"type": "BPE2"}})),
        ("tokenizer.model", "\nnot a model"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_a_mend(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(BadInputError) as error:
        load(tmp_path)
    assert "tokenizer" in error.value.message
    assert error.value.mend
    assert "tiktoken" not in error.value.message

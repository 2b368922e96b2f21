"""What a calibrated scheme is calibrated on, and the folder that its backend loads: by hand, and loaded again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.forgetting.data.calibration_texts import (
    ROW_TOKENS,
    cut_into_rows,
    read_calibration_texts,
    read_texts,
)
from quail_audit.engine.forgetting.models.export import write_model_folder


class Counting:
    """A tokenizer of a token a letter, with one in front, as many put there."""

    def __call__(self, text: str, **settings: bool) -> dict[str, list[int]]:
        assert settings == {"add_special_tokens": True, "truncation": False}
        return {"input_ids": [0, *map(ord, text)]}


def rows(texts: list[str], **changes: Any) -> tuple[tuple[int, ...], ...]:
    asked: dict[str, Any] = {"samples": 100, "window": 8, "least": 1, "seed": 0} | changes
    return cut_into_rows(texts, Counting(), **asked)  # type: ignore[arg-type]


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_texts_of_a_file(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.txt", "One line.\nAnother.\n")
    assert read_calibration_texts(plain, None) == ("One line.\nAnother.\n",)
    assert read_texts(Path(plain), by_line=True) == ("One line.", "Another.")
    for rows_of_file, expected in (
        ([{"text": "one"}, {"text": "two"}], ("one", "two")),
        ([{"prompt": "one ", "completion": " two"}], ("one two",)),
        ([{"question": "one?", "answer": "two"}], ("one? two",)),
    ):
        jsonl = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows_of_file)))
        assert read_calibration_texts(jsonl, str(tmp_path)) == expected  # the file goes before the folder


def test_texts_of_a_data_folder_the_nearest_to_training_first(tmp_path: Path) -> None:
    asked = json.dumps([{"question": "Who?", "answer": "Nobody."}])
    write(tmp_path / "knowmem/retain_qa.json", asked)
    assert read_calibration_texts(None, str(tmp_path)) == ("Who? Nobody.",)
    write(tmp_path / "verbmem/retain.json", json.dumps([{"prompt": "The mayor", "gt": " wept."}]))
    assert read_calibration_texts(None, str(tmp_path)) == ("The mayor wept.",)
    write(tmp_path / "privleak/retain.json", json.dumps(["A text."]))
    assert read_calibration_texts(None, str(tmp_path)) == ("A text.",)
    write(tmp_path / "raw/retain.txt", "All of it.")
    assert read_calibration_texts(None, str(tmp_path)) == ("All of it.",)


def test_nothing_to_calibrate_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="texts to calibrate on"):
        read_calibration_texts(None, None)
    with pytest.raises(BadInputError, match="no text to calibrate on"):
        read_calibration_texts(write(tmp_path / "blank.txt", " \n"), None)


def test_rows_are_the_joined_texts_cut_to_the_window() -> None:
    joined = (0, *map(ord, "abcdefghij"), 0, *map(ord, "klm"))
    assert rows(["abcdefghij", "klm"]) == (joined[:8],)  # what is left does not fill a row
    assert rows(["abcd"]) == ((0, *map(ord, "abcd")),)  # but there is no other
    assert rows(["a" * 15]) == ((0, *[97] * 7), (97,) * 8)
    assert [len(row) for row in rows(["a" * 2000], window=None)] == [ROW_TOKENS] * 3
    assert [len(row) for row in rows(["a" * 2000], window=4096)] == [ROW_TOKENS] * 3


def test_so_many_rows_are_chosen_by_seed_and_keep_their_order() -> None:
    texts = ["".join(map(chr, range(256, 256 + 799)))]  # no two rows the same
    every = rows(texts)
    assert len(every) == 100
    chosen = rows(texts, samples=10)
    places = [every.index(row) for row in chosen]
    assert len(places) == 10
    assert places == sorted(set(places))
    assert chosen == rows(texts, samples=10)
    assert chosen != rows(texts, samples=10, seed=1)


def test_too_few_tokens_say_how_many_samples_there_must_be() -> None:
    assert len(rows(["a" * 15], least=16)) == 2
    with pytest.raises(BadInputError, match=r"16 tokens .* too few: the widest layer has 17 columns") as caught:
        rows(["a" * 15], least=17)
    assert "--calibration-samples 3" in caught.value.mend


def test_a_backend_loads_the_same_model_from_the_folder(world: Path, tokenizer: Any, tmp_path: Path) -> None:
    write_model_folder(open_checkpoint(str(world / "original")), tokenizer, tmp_path / "linked")
    assert (tmp_path / "linked/model.safetensors").is_symlink()
    tensors = load_file(world / "original/model.safetensors")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "linked")
    assert isinstance(loaded, LlamaForCausalLM)
    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())
    assert (tmp_path / "linked/tokenizer.json").is_file()


def test_an_adapter_is_merged_first(world: Path, tokenizer: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = LlamaForCausalLM.from_pretrained(world / "original", dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    expected = adapted.merge_and_unload().state_dict()
    original = open_checkpoint(str(world / "original"))
    write_model_folder(open_checkpoint(str(tmp_path / "adapter"), base=original), tokenizer, tmp_path / "merged")
    merged = load_file(tmp_path / "merged/model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(merged[name], load_file(world / "original/model.safetensors")[name])
    assert all(torch.allclose(merged[each], expected[each].to(merged[each].dtype), atol=1e-6) for each in merged)

"""`quail inspect`: what it says of checkpoints, against what transformers makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from quail_audit.engine.forgetting.models.language_model import TransformersModel
from quail_audit.schema.inspection import Inspection
from tests.support.quail_command import quail_here
from tests.support.tiny_checkpoints import gpt2_config, llama_config, save
from tests.support.tiny_classifiers import make_tokenizer, new_classifier, write_csv
from tests.support.tiny_gguf_files import write_llama
from tests.support.tiny_language_models import POSTS


def inspected(*arguments: str | Path) -> Inspection:
    done = quail_here("inspect", *arguments, "--format", "json")
    assert done.exit_code == 0, done.output
    return Inspection.model_validate_json(done.stdout)


def counted(found: Inspection) -> int:
    return sum(kind.weights for kind in found.tensors)


def test_a_model_with_its_data(world: Path, llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    found = inspected(world / "original", "--data", world / "data", "--scheme", "nf4")
    assert found.facts.architecture == "LlamaForCausalLM"
    assert found.task == "language modelling"
    parameters = dict(llama.named_parameters())
    assert counted(found) == sum(parameter.numel() for parameter in parameters.values())
    linear = {
        name: module.weight.numel()
        for name, module in llama.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    (nf4,) = found.schemes
    assert (nf4.scheme, nf4.layers, nf4.weights) == ("nf4", len(linear), sum(linear.values()))
    assert nf4.share == pytest.approx(sum(linear.values()) / counted(found))
    assert "model.embed_tokens" in {left.modules for left in nf4.left}
    assert found.window == llama.config.max_position_embeddings
    assert {(token.role, token.id, token.text) for token in found.special} >= {
        ("begin", tokenizer.bos_token_id, tokenizer.bos_token),
        ("end", tokenizer.eos_token_id, tokenizer.eos_token),
    }
    assert found.chat_template is None
    assert [prompt.name for prompt in found.prompts] == ["verbmem_forget", "nll_forget", "verbmem_forget"]
    reread = AutoTokenizer.from_pretrained(world / "original")
    for prompt, text in zip(found.prompts[:2], (" ".join(POSTS[0].split()[:5]), POSTS[0]), strict=True):
        assert prompt.text == text
        assert prompt.ids == tuple(reread(text)["input_ids"])
        assert prompt.tokens == tuple(reread.convert_ids_to_tokens(list(prompt.ids)))
    assert found.samples["verbmem_forget"] == len(POSTS)


def test_a_tied_head_and_no_tokenizer(tmp_path: Path) -> None:
    model = save(tmp_path, gpt2_config())
    found = inspected(tmp_path)
    assert found.tied == ("lm_head.weight is transformer.wte.weight",)
    assert counted(found) == sum(parameter.numel() for parameter in model.parameters())
    assert found.window == 32
    assert found.prompts == ()
    assert any("has no tokenizer" in each for each in found.not_measured)
    assert {scheme.scheme for scheme in found.schemes} >= {"nf4", "int8", "rtn-int4-g128", "gguf-q4_0"}
    by_name = {scheme.scheme: scheme for scheme in found.schemes}
    assert by_name["rtn-int4-g128"].layers == 2  # columns of 64 do not divide into groups of 128, those of 256 do
    assert any("blocks of 128" in left.why for left in by_name["rtn-int4-g128"].left)
    assert {left.modules for left in by_name["nf4"].left} == {"transformer.wte", "transformer.wpe"}


def test_names_without_the_models_prefix(tmp_path: Path) -> None:
    save(tmp_path, gpt2_config())
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    found = inspected(tmp_path, "--scheme", "nf4")
    assert found.renamed_count == len(tensors)
    assert all(each.partition(" is ")[2] == f"transformer.{each.partition(' is ')[0]}" for each in found.renamed)


def test_a_wrappers_prefix_and_another_type_than_the_files(tmp_path: Path) -> None:
    model = save(tmp_path, llama_config())
    tensors = load_file(tmp_path / "model.safetensors")
    wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
    save_file(wrapped, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    found = inspected(tmp_path, "--scheme", "nf4")
    assert (found.dtype_named, found.dtype_loaded) == ("bfloat16", "bfloat16")
    assert {(kind.dtypes, kind.loaded) for kind in found.tensors} == {(("float32",), ("bfloat16",))}
    assert found.renamed_count == len(tensors) == len(list(model.parameters()))
    assert "module.model.embed_tokens.weight is model.embed_tokens.weight" in found.renamed
    assert any("module. was taken off their names" in note for note in found.notes)


def test_plain_examples_are_cut_to_the_window(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    save(tmp_path, llama_config(vocab_size=len(tokenizer), max_position_embeddings=40))
    tokenizer.save_pretrained(tmp_path)
    question, to_continue, text = inspected(tmp_path).prompts
    assert question.text == "Question: What is the capital of France?\nAnswer: "
    whole = tokenizer(question.text)["input_ids"]
    assert len(question.ids) == 20
    assert question.cut == len(whole) - 20
    assert question.ids == tuple(whole[-20:])
    assert to_continue.cut == max(0, len(tokenizer(to_continue.text)["input_ids"]) - 20)
    assert text.ids == tuple(tokenizer(text.text)["input_ids"][:40])


def test_what_is_not_asked_is_said(tmp_path: Path) -> None:
    config = BartConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, vocab_size=60, max_position_embeddings=32,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    found = inspected(tmp_path, "--scheme", "nf4")
    assert found.facts.architecture == "BartForConditionalGeneration"
    assert "BartForConditionalGeneration is an encoder-decoder model" in " ".join(found.not_measured)


def test_prompts_and_end_tokens_are_those_of_an_audit(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Against the model that an audit asks, which is not loaded here."""
    model = save(tmp_path / "model", llama_config(vocab_size=len(tokenizer), max_position_embeddings=48))
    tokenizer.save_pretrained(tmp_path / "model")
    settings = {"eos_token_id": [5, 7, 100_000]}
    (tmp_path / "model/generation_config.json").write_text(json.dumps(settings))
    rows = [{"question": f"Who saw {post}?", "answer": "Bob"} for post in POSTS[:3]]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/forget.json").write_text(json.dumps(rows))
    found = inspected(tmp_path / "model", "--data", tmp_path / "data")
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "model")
    asked = TransformersModel(loaded, AutoTokenizer.from_pretrained(tmp_path / "model"), batch_size=1)
    assert tuple(token.id for token in found.special if token.role == "end") == tuple(asked.end_ids)
    assert any("100000" in note for note in found.notes)
    seen: list[tuple[int, ...]] = []
    forward = loaded.forward

    def remember(input_ids: torch.Tensor, **others: Any) -> Any:
        seen.extend(tuple(row.tolist()) for row in input_ids if len(row) > 1)
        return forward(input_ids=input_ids, **others)

    loaded.forward = remember
    list(asked.continuations([prompt.text for prompt in found.prompts], max_new_tokens=32, stop_words=("\n\n",)))
    assert {prompt.ids for prompt in found.prompts} <= set(seen)
    assert model.config.max_position_embeddings - 24 == max(len(prompt.ids) for prompt in found.prompts)


def test_an_adapter_on_its_base(world: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = LlamaForCausalLM.from_pretrained(world / "original", dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    found = inspected(tmp_path / "adapter", "--base", world / "original")
    own = [parameter for name, parameter in adapted.named_parameters() if "lora_" in name]
    assert found.base == str(world / "original")
    assert found.adapter is not None
    assert (found.adapter.tensors, found.adapter.weights) == (len(own), sum(each.numel() for each in own))
    assert counted(found) == counted(inspected(world / "original"))
    alone = quail_here("inspect", tmp_path / "adapter")
    assert alone.exit_code == 3
    assert "--base" in alone.stderr
    assert str(world / "original") in alone.stderr


def test_a_classifier_with_its_data(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("encoder")
    new_classifier("encoder", len(tokenizer), ("real", "fake")).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write_csv(tmp_path / "data/forget.csv", [("one post", "fake"), ("another", "real")])
    found = inspected(tmp_path, "--data", tmp_path / "data", "--scheme", "int8")
    assert found.task == "classification"
    assert [prompt.ids for prompt in found.prompts] == [
        tuple(tokenizer(text)["input_ids"]) for text in ("one post", "another")
    ]
    assert "classifier" in {left.modules for left in found.schemes[0].left}


def test_a_gguf_file(tmp_path: Path) -> None:
    model = save(tmp_path / "model", llama_config(intermediate_size=128))
    write_llama(model, tmp_path / "m.gguf", "q8_0")
    found = inspected(tmp_path / "m.gguf", "--scheme", "gguf-q8_0")
    layers = next(kind for kind in found.tensors if kind.kind == "layers that schemes round")
    assert layers.dtypes == ("gguf-q8_0",)
    assert layers.tensors == 14
    assert counted(found) == sum(parameter.numel() for parameter in model.parameters())
    assert any("audited as it is stored" in note for note in found.notes)


def test_a_question_is_shown_through_the_chat_template_too(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    save(tmp_path / "model", llama_config(vocab_size=len(tokenizer)))
    template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
    try:
        tokenizer.chat_template = template + "{% if add_generation_prompt %}assistant: {% endif %}"
        tokenizer.save_pretrained(tmp_path / "model")
        turns = [{"role": "user", "content": "Who is it?"}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    finally:
        tokenizer.chat_template = None
    (tmp_path / "data").mkdir()
    (tmp_path / "data/retain.json").write_text(json.dumps([{"question": "Who is it?", "answer": "Tavi"}]))
    found = inspected(tmp_path / "model", "--data", tmp_path / "data", "--scheme", "nf4")
    raw, chat = found.prompts
    assert (raw.name, raw.text) == ("knowmem_retain", "Question: Who is it?\nAnswer: ")
    assert (chat.name, chat.text) == ("knowmem_retain, chat template", "<s>user: Who is it?</s>\nassistant: ")
    assert list(chat.ids) == ids
    assert [prompt.name for prompt in inspected(tmp_path / "model", "--scheme", "nf4").prompts][:2] == [
        "a question",
        "a question, chat template",
    ]


def test_text_for_a_terminal_has_the_same_and_no_escape_code(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    save(tmp_path / "model", llama_config(vocab_size=len(tokenizer)))
    tokenizer.chat_template = "{{ bos_token }}\x1b[31m{% for message in messages %}\n{% endfor %}"
    try:
        tokenizer.save_pretrained(tmp_path / "model")
    finally:
        tokenizer.chat_template = None
    (tmp_path / "data").mkdir()
    rows = [{"question": f"Who \x1b[2J is {n}?", "answer": "Bob"} for n in range(4)]
    (tmp_path / "data/forget.json").write_text("\n".join(map(json.dumps, rows)))
    done = quail_here("inspect", tmp_path / "model", "--data", tmp_path / "data", "--scheme", "nf4")
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.stdout
    for words in (
        "LlamaForCausalLM, language modelling",
        "loaded as      float32",
        "{{ bos_token }}\\x1b[31m{% for message in messages %}",
        "layers that schemes round",
        "% of the weights: 14 layers",
        "left: lm_head",
        "Question: Who \\x1b[2J is 2?",
        "samples: knowmem_probability_forget 4",
        "not measured: knowmem_retain: no knowmem/retain_qa.json",
    ):
        assert words in done.stdout


def test_what_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    for arguments in ((tmp_path,), ("nowhere/at/all",)):
        done = quail_here("inspect", *arguments)
        assert done.exit_code == 3
        assert done.stdout == ""
    save(tmp_path)
    assert quail_here("inspect", tmp_path, "--scheme", "nf5").exit_code == 2


def test_the_fields_of_its_json_stay() -> None:
    """They are only ever added to: programs read them."""
    schema: Any = Inspection.model_json_schema()
    assert set(schema["properties"]) >= {
        "facts", "task", "base", "adapter", "tensors", "dtype_named", "tied", "renamed", "renamed_count", "schemes",
        "window", "special", "chat_template", "prompts", "samples", "notes", "not_measured",
    }  # fmt: skip
    fields = {name: set(part["properties"]) for name, part in schema["$defs"].items()}
    assert fields["TensorsOfKind"] >= {"kind", "tensors", "weights", "dtypes", "examples"}
    assert fields["RoundedBy"] >= {"scheme", "layers", "weights", "share", "left"}
    assert fields["ModulesLeft"] >= {"modules", "count", "weights", "why"}
    assert fields["SpecialToken"] >= {"role", "id", "text"}
    assert fields["PromptSeen"] >= {"name", "text", "tokens", "ids", "cut"}

"""Loading arms: the rounded ones against transformers with bitsandbytes, and every way a load can fail."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)
from transformers.pytorch_utils import Conv1D

from quail_audit.core.errors import BadInputError, EnvironmentProblemError, UsageError
from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.forgetting.models import rounding
from quail_audit.engine.forgetting.models.device import find_device
from quail_audit.engine.forgetting.models.language_model import TransformersModel
from quail_audit.engine.forgetting.models.load import LoadedArm, load_arm
from quail_audit.engine.schemes.bitsandbytes import FourBit, bitsandbytes
from quail_audit.engine.schemes.interface import Quantized, Scheme
from quail_audit.engine.schemes.registry import scheme_named
from tests.support.tiny_language_models import POSTS, checkpoint_of, greedy_one_at_a_time, llama_config

IDS = torch.tensor([[5, 17, 3, 60, 41, 9, 2, 33]])
SCHEMES = ("nf4", "fp4", "nf4-dq", "fp4-dq")


def layers_of(model: nn.Module) -> list[Any]:
    """As transformers rounds by default: all but the head."""
    return [
        SimpleNamespace(name=name, transposed=isinstance(module, Conv1D), part=None)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and "lm_head" not in name
    ]


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["float32", "bfloat16"])
def llama_folder(request: pytest.FixtureRequest, tokenizer: Any, tmp_path: Path) -> Path:
    torch.manual_seed(4)
    model = LlamaForCausalLM(llama_config(len(tokenizer), attention_bias=True)).to(getattr(torch, request.param))
    return save(model, tokenizer, tmp_path / f"llama-{request.param}")


@pytest.fixture
def gpt2_folder(tokenizer: Any, tmp_path: Path) -> Path:
    torch.manual_seed(5)
    config = GPT2Config(
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=64,
        vocab_size=len(tokenizer),
        bos_token_id=0,
        eos_token_id=1,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return save(GPT2LMHeadModel(config), tokenizer, tmp_path / "gpt2")


def load(folder: Path, scheme: Scheme | None = None, **changes: Any) -> LoadedArm:
    plain = AutoModelForCausalLM.from_pretrained(folder)
    options = {"layers": layers_of(plain), "device": "cpu", "dtype": "auto", **changes}
    return load_arm(checkpoint_of(folder), scheme, **options)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


def deployed(folder: Path, scheme: FourBit, **options: Any) -> Any:
    """The model as transformers and bitsandbytes make it, in training mode: dequantized, then an ordinary product.

    In eval mode on a CPU with AVX512-BF16 the same modules compute in bfloat16.
    """
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=scheme.kind,
        bnb_4bit_use_double_quant=scheme.double_quantization,
        bnb_4bit_compute_dtype=torch.float32,
    )
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map="cpu", **options).train()


def test_full_precision_is_the_checkpoint_in_float32(llama_folder: Path) -> None:
    arm = load(llama_folder)
    plain = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.float32)
    assert torch.equal(logits(arm.model), logits(plain.eval()))
    assert (arm.execution, arm.device, arm.dtype, arm.reason, arm.notes) == ("full precision", "cpu", "float32", "", ())
    assert not arm.model.training


def test_the_dtype_that_is_asked_for(llama_folder: Path) -> None:
    arm = load(llama_folder, dtype="bfloat16")
    assert arm.dtype == "bfloat16"
    assert {parameter.dtype for parameter in arm.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", SCHEMES)
def test_rounded_weights_are_those_that_are_deployed(llama_folder: Path, name: str) -> None:
    scheme = scheme_named(name)
    assert isinstance(scheme, FourBit)
    arm = load(llama_folder, scheme)
    real = deployed(llama_folder, scheme, dtype="auto")
    dequantize = bitsandbytes().functional.dequantize_4bit
    rounded = 0
    for path, module in real.named_modules():
        if isinstance(module, bitsandbytes().nn.Linear4bit):
            weight = dequantize(module.weight.data, module.weight.quant_state)
            assert torch.equal(arm.model.get_submodule(path).weight, weight.float())
            rounded += 1
    assert rounded == len(layers_of(arm.model)) == 14
    assert (arm.execution, arm.dtype) == ("dequantized weights", "float32")
    assert "bitsandbytes" in arm.reason


@pytest.mark.parametrize("name", SCHEMES)
def test_logits_equal_the_deployed_modules(tokenizer: Any, tmp_path: Path, name: str) -> None:
    torch.manual_seed(6)
    folder = save(LlamaForCausalLM(llama_config(len(tokenizer), attention_bias=True)), tokenizer, tmp_path / "llama")
    scheme = scheme_named(name)
    assert isinstance(scheme, FourBit)
    rounded, real = logits(load(folder, scheme).model), logits(deployed(folder, scheme))
    torch.testing.assert_close(rounded, real, rtol=0.0, atol=1e-6)
    assert not torch.allclose(rounded, logits(load(folder).model), atol=1e-3), "rounding changes the logits"


def test_gpt2s_transposed_layers(gpt2_folder: Path) -> None:
    scheme = scheme_named("nf4")
    assert isinstance(scheme, FourBit)
    arm = load(gpt2_folder, scheme)
    assert all(layer.transposed for layer in layers_of(arm.model))
    torch.testing.assert_close(logits(arm.model), logits(deployed(gpt2_folder, scheme)), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_modules_for_cuda_are_transformers_own(gpt2_folder: Path, llama_folder: Path, name: str) -> None:
    """Made on the CPU, where bitsandbytes quantizes too: the same packed codes and scales as transformers loads."""
    scheme = scheme_named(name)
    assert isinstance(scheme, FourBit)
    for folder in (gpt2_folder, llama_folder):
        plain, real = AutoModelForCausalLM.from_pretrained(folder, dtype="auto"), deployed(folder, scheme, dtype="auto")
        for layer in layers_of(plain):
            module = plain.get_submodule(layer.name)
            ours = rounding._linear4bit(module, scheme, torch.float32, transposed=layer.transposed).to("cpu")
            theirs = real.get_submodule(layer.name)
            assert torch.equal(ours.weight.data, theirs.weight.data)
            ours_state, theirs_state = ours.weight.quant_state, theirs.weight.quant_state
            assert torch.equal(ours_state.absmax, theirs_state.absmax)
            assert (ours_state.dtype, ours_state.quant_type) == (theirs_state.dtype, theirs_state.quant_type)
            assert ours_state.nested == theirs_state.nested == scheme.double_quantization
            assert (ours.bias is None) == (theirs.bias is None)
            if ours.bias is not None:
                assert torch.equal(ours.bias, theirs.bias)
            x = torch.randn(3, ours.in_features)
            assert torch.equal(ours.train()(x), theirs(x))


@pytest.mark.cuda
@pytest.mark.parametrize("name", SCHEMES)
def test_cuda_runs_the_real_modules(llama_folder: Path, name: str) -> None:
    scheme = scheme_named(name)
    assert isinstance(scheme, FourBit)
    arm = load(llama_folder, scheme, device="cuda", dtype="bfloat16")
    assert arm.execution == "bitsandbytes Linear4bit"
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=scheme.kind,
        bnb_4bit_use_double_quant=scheme.double_quantization,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    options = {"quantization_config": config, "device_map": "cuda", "dtype": "auto"}
    real = AutoModelForCausalLM.from_pretrained(llama_folder, **options)
    for layer in layers_of(AutoModelForCausalLM.from_pretrained(llama_folder)):
        ours, theirs = arm.model.get_submodule(layer.name), real.get_submodule(layer.name)
        assert isinstance(ours, bitsandbytes().nn.Linear4bit)
        assert torch.equal(ours.weight.data, theirs.weight.data)
    with torch.no_grad():
        found = arm.model(IDS.cuda()).logits.float()
    assert torch.isfinite(found).all()


def test_rounding_a_tied_head_leaves_the_embedding(tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(7)
    folder = save(
        LlamaForCausalLM(llama_config(len(tokenizer), tie_word_embeddings=True)), tokenizer, tmp_path / "tied"
    )
    head = [SimpleNamespace(name="lm_head", transposed=False, part=None)]
    arm = load(folder, scheme_named("nf4"), layers=head)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(arm.model.model.embed_tokens.weight, plain.model.embed_tokens.weight)
    assert not torch.equal(arm.model.lm_head.weight, plain.lm_head.weight)


class Halved(Scheme):
    """Keeps half of each weight: a scheme of another package, without modules of its own."""

    name = "halved"
    title = "half of each weight"
    bits_per_weight = 31.0
    block = "none"
    levels = 256

    def quantize(self, weight: torch.Tensor) -> Quantized:
        return Quantized(codes=weight, scales=torch.ones(1), dtype=weight.dtype)

    def dequantize(self, quantized: Quantized) -> torch.Tensor:
        return quantized.codes / 2

    def bucket_widths(self, weight: torch.Tensor, quantized: Quantized) -> torch.Tensor:
        return torch.ones_like(weight)


def test_a_plugged_in_scheme(llama_folder: Path) -> None:
    arm = load(llama_folder, Halved())
    plain = AutoModelForCausalLM.from_pretrained(llama_folder, dtype="auto")
    for layer in layers_of(plain):
        expected = (plain.get_submodule(layer.name).weight / 2).float()
        assert torch.equal(arm.model.get_submodule(layer.name).weight, expected)
    assert arm.execution == "dequantized weights"
    assert arm.reason.startswith("the scheme has no modules of its own")


def test_an_adapter_is_merged_and_then_rounded(llama_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(8)
    base = AutoModelForCausalLM.from_pretrained(llama_folder, dtype="auto")
    tuned = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    adapter = tmp_path / "adapter"
    tuned.save_pretrained(adapter)
    merged_folder = tmp_path / "merged"
    tuned.merge_and_unload().save_pretrained(merged_folder)
    original = checkpoint_of(llama_folder)
    layers = layers_of(AutoModelForCausalLM.from_pretrained(llama_folder))
    for scheme in (None, scheme_named("nf4")):
        arm = load_arm(checkpoint_of(adapter, adapter_of=original), scheme, layers=layers, device="cpu", dtype="auto")
        merged = load_arm(
            checkpoint_of(merged_folder), scheme, layers=layers, device="cpu", dtype="auto", tokenizer_of=original
        )
        assert torch.equal(logits(arm.model), logits(merged.model))
        assert arm.notes == (f"adapter has no tokenizer; that of {llama_folder.name} was used",)


def test_penalties_of_the_checkpoint_do_not_count(llama: LlamaForCausalLM, tokenizer: Any, tmp_path: Path) -> None:
    folder = save(llama, tokenizer, tmp_path / "penalised")
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"repetition_penalty": 5.0, "do_sample": True, "temperature": 3.0, "no_repeat_ngram_size": 1}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    arm = load(folder)
    ((_, answer),) = TransformersModel(arm.model, arm.tokenizer).continuations([POSTS[0][:20]], max_new_tokens=15)
    (expected,) = greedy_one_at_a_time(llama, [tokenizer(POSTS[0][:20])["input_ids"]], 15, (1,))
    assert answer == tokenizer.decode(expected)


# -- tokenizers


def without_tokenizer(folder: Path) -> Path:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    return folder


def test_the_originals_tokenizer_stands_in(llama_folder: Path, tmp_path: Path) -> None:
    bare = without_tokenizer(Path(shutil.copytree(llama_folder, tmp_path / "bare")))
    arm = load(bare, tokenizer_of=checkpoint_of(llama_folder))
    assert arm.notes == (f"bare has no tokenizer; that of {llama_folder.name} was used",)
    assert arm.tokenizer("Velmora")["input_ids"]
    with pytest.raises(BadInputError, match=r"has no tokenizer.*tokenizer\.json"):
        load(bare)


def test_a_broken_tokenizer_is_bad_input(llama_folder: Path) -> None:
    (llama_folder / "tokenizer.json").write_text("{")
    with pytest.raises(BadInputError, match="the tokenizer cannot be read"):
        load(llama_folder)


# -- what cannot be loaded


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 100),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "config.json").write_text('{"model_type": "no such"}'),
        lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
        lambda folder: (folder / "model.safetensors").unlink(),
    ],
)
def test_what_transformers_cannot_load_is_bad_input(tokenizer: Any, tmp_path: Path, spoil: Any) -> None:
    folder = save(LlamaForCausalLM(llama_config(len(tokenizer))), tokenizer, tmp_path / "spoilt")
    layers = layers_of(AutoModelForCausalLM.from_pretrained(folder))
    spoil(folder)
    with pytest.raises(BadInputError) as caught:
        load_arm(checkpoint_of(folder), scheme_named("nf4"), layers=layers, device="cpu", dtype="auto")
    assert caught.value.where in (str(folder), str(folder / "config.json"), str(folder / "model.safetensors"))


def test_code_in_a_checkpoint_is_never_run(tokenizer: Any, tmp_path: Path) -> None:
    folder = save(LlamaForCausalLM(llama_config(len(tokenizer))), tokenizer, tmp_path / "code")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInputError):
        load_arm(checkpoint_of(folder), None, layers=[], device="cpu", dtype="auto")
    assert not (tmp_path / "ran").exists()


def test_a_layer_that_the_model_lacks(llama_folder: Path) -> None:
    layers = [SimpleNamespace(name="model.layers.9.mlp.down_proj", transposed=False, part=None)]
    with pytest.raises(BadInputError, match=r"has no layer model\.layers\.9\.mlp\.down_proj"):
        load(llama_folder, scheme_named("nf4"), layers=layers)


def test_a_config_from_elsewhere_stands_in(llama_folder: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(llama_folder, tmp_path / "bare"))
    (bare / "config.json").unlink()
    checkpoint = open_checkpoint(str(bare), base=checkpoint_of(llama_folder))
    assert checkpoint.borrowed_from == llama_folder.name
    arm = load_arm(checkpoint, None, layers=[], device="cpu", dtype="auto")
    assert torch.equal(logits(arm.model), logits(load(llama_folder).model))


def test_out_of_memory_at_load_says_what_to_do(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", no_room)
    with pytest.raises(EnvironmentProblemError, match=r"out of memory while loading.*--dtype bfloat16"):
        load_arm(checkpoint_of(llama_folder), None, layers=[], device="cpu", dtype="auto")


# -- devices


def test_devices() -> None:
    assert find_device("cpu") == torch.device("cpu")
    for unknown in ("gpu", "meta", "xla", "cuda:x", ""):
        with pytest.raises(UsageError, match="unknown device"):
            find_device(unknown)
    with pytest.raises(EnvironmentProblemError, match=r"no such device 'cuda:99': torch sees"):
        find_device("cuda:99")


def test_auto_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")
    with pytest.raises(EnvironmentProblemError, match="torch sees no CUDA device"):
        find_device("cuda")
    with pytest.raises(EnvironmentProblemError, match="torch sees no Apple GPU"):
        find_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("auto") == find_device("cuda") == torch.device("cuda", 0)
    assert find_device("cuda:1") == torch.device("cuda", 1)


def test_an_unknown_dtype(llama_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown dtype 'int8'.*float32"):
        load(llama_folder, dtype="int8")


def test_a_model_without_its_head_is_not_measured(tokenizer: Any, tmp_path: Path) -> None:
    config = llama_config(len(tokenizer), num_labels=2)
    folder = save(LlamaForSequenceClassification(config), tokenizer, tmp_path / "classifier")
    config_file = folder / "config.json"
    config_file.write_text(json.dumps({**json.loads(config_file.read_text()), "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(BadInputError, match=r"lacks 1 weights of a LlamaForCausalLM.*lm_head\.weight"):
        load_arm(checkpoint_of(folder), None, layers=[], device="cpu", dtype="auto")

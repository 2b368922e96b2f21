"""Folders as trainers, exporters and downloads leave them: opened where one checkpoint is meant, else refused."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.checkpoint import Checkpoint, open_checkpoint
from tests.support.tiny_checkpoints import save

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    save(folder)
    return folder


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"1")
    return folder


def check_same(found: Checkpoint, plain: Path) -> None:
    expected = load_file(plain / "model.safetensors")
    assert set(found.names) == set(expected)
    assert all(torch.equal(found.read(name), expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("below", "beside", "is_noted"),
    [
        ("checkpoint-500", ("trainer_state.json", "runs/events"), True),
        ("output/checkpoint-7", ("logs/log.txt",), True),
        ("final", ("training_args.bin", "optimizer.pt"), True),
        (f"snapshots/{COMMIT}", ("refs/main",), False),
        (f"models--org--name/snapshots/{COMMIT}", (), True),
    ],
)
def test_the_one_checkpoint_below_a_folder_is_opened(
    plain: Path, tmp_path: Path, below: str, beside: tuple[str, ...], is_noted: bool
) -> None:
    touch(tmp_path, *beside)
    shutil.copytree(plain, tmp_path / below)
    found = open_checkpoint(str(tmp_path))
    check_same(found, plain)
    assert found.folder == tmp_path / below
    assert found.revision == (COMMIT if COMMIT in below else None)
    assert bool(found.notes) == is_noted
    assert all("the one checkpoint in it, was opened" in note for note in found.notes)


def test_the_main_branch_of_a_hubs_cache_is_meant(plain: Path, tmp_path: Path) -> None:
    for commit in ("a" * 40, COMMIT, "f" * 40):
        shutil.copytree(plain, tmp_path / "snapshots" / commit)
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs/main").write_text(f"{COMMIT}\n")
    assert open_checkpoint(str(tmp_path)).revision == COMMIT
    (tmp_path / "refs/main").write_text("../../elsewhere")
    with pytest.raises(BadInputError, match="holds 3 checkpoints"):
        open_checkpoint(str(tmp_path))


def test_several_checkpoints_are_named_the_newest_last(plain: Path, tmp_path: Path) -> None:
    for step in (1000, 500, 900):
        shutil.copytree(plain, tmp_path / f"checkpoint-{step}")
    with pytest.raises(
        BadInputError, match="3 checkpoints: checkpoint-500, checkpoint-900, and last checkpoint-1000"
    ) as e:
        open_checkpoint(str(tmp_path))
    assert e.value.mend == f"Name the one to audit: {tmp_path / 'checkpoint-1000'}"


def test_a_model_beside_its_checkpoints_wins(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    touch(tmp_path, "checkpoint-500/model.safetensors", "global_step5/x")
    found = open_checkpoint(str(tmp_path))
    assert (found.folder, found.notes) == (tmp_path, ())


def test_an_adapter_below_a_folder_is_opened(plain: Path, tmp_path: Path) -> None:
    adapter = get_peft_model(save(tmp_path / "base"), LoraConfig(r=2, target_modules=["q_proj"]))
    adapter.save_pretrained(tmp_path / "run/forget")
    base = open_checkpoint(str(plain))
    assert open_checkpoint(str(tmp_path / "run"), base=base).folder == tmp_path / "run/forget"
    shutil.copytree(tmp_path / "run/forget", tmp_path / "run/retain")
    with pytest.raises(BadInputError, match="holds 2 checkpoints: forget, and last retain"):
        open_checkpoint(str(tmp_path / "run"), base=base)


@pytest.mark.parametrize(
    "names",
    [
        ("unlearned.safetensors",),
        ("model.fp16.safetensors",),
        ("x-00001-of-00002.safetensors", "x-00002-of-00002.safetensors"),
        ("model.pt",),
        ("pytorch_model_fsdp.bin",),
        ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"),
    ],
)
def test_weights_of_another_name_are_read(plain: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    shutil.copy(plain / "config.json", tmp_path)
    touch(tmp_path, "optimizer.pt", "training_args.bin", "rng_state_0.pth", "scheduler.pt")
    tensors = list(load_file(plain / "model.safetensors").items())
    for part, name in enumerate(names):
        some = dict(tensors[part :: len(names)])
        if name.endswith(".safetensors"):
            save_file(some, tmp_path / name)
        else:
            torch.save(some, tmp_path / name)
    found = open_checkpoint(str(tmp_path))
    check_same(found, plain)
    assert f"{names[0]} was read" in found.notes[0]


def test_several_weights_of_other_names_and_absent_shards(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").rename(tmp_path / "b-00001-of-00003.safetensors")
    with pytest.raises(BadInputError, match=r"lacks 2 of its 3 weight files: b-00002-of-00003\.safetensors"):
        open_checkpoint(str(tmp_path))
    touch(tmp_path, "a.safetensors")
    with pytest.raises(BadInputError, match="several weight files, and none that transformers would take: a"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "said", "mend"),
    [
        (("pytorch_model_fsdp_0/__0_0.distcp", "config.json"), "FSDP",
         "accelerate merge-weights {}/pytorch_model_fsdp_0 OUT"),
        (("global_step10/mp_rank_00_model_states.pt", "latest"), "DeepSpeed", "zero_to_fp32 {} OUT"),
        (("checkpoint-5/global_step5/x.pt", "checkpoint-5/zero_to_fp32.py"), "DeepSpeed",
         "zero_to_fp32.py {}/checkpoint-5 OUT"),
        (("iter_0000100/mp_rank_00/model_optim_rng.pt",), "Megatron", "export_ckpt"),
        (("__0_0.distcp", ".metadata"), "distributed checkpoint of torch", "dcp_to_torch {} OUT/pytorch_model.bin"),
        (("consolidated.00.pth", "params.json"), "Meta's own format", "convert_llama_weights_to_hf --input_dir {}"),
        (("original/consolidated.00.pth", "config.json"), "Meta's own format", "convert_llama_weights_to_hf"),
        (("consolidated.safetensors", "params.json"), "Mistral's own format", "convert_mistral_weights_to_hf"),
        (("tf_model.h5", "config.json"), "TensorFlow", "from_tf=True"),
        (("flax_model.msgpack",), "Flax", "from_flax=True"),
        (("onnx/model.onnx", "config.json"), "exported", "PyTorch checkpoint"),
        (("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"), "one part of",
         "--merge {}/m-00001-of-00002.gguf OUT.gguf"),
        (("config.json", "model.safetensors.part"), "no weights", "hf download"),
        (("config.json", ".cache/huggingface/download/x.incomplete"), "no weights", "hf download"),
        (("config.json", "tokenizer.json"), "no weights", "save_pretrained"),
    ],
)  # fmt: skip
def test_formats_that_only_their_trainer_reads(tmp_path: Path, files: tuple[str, ...], said: str, mend: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(BadInputError, match=re.escape(said)) as caught:
        open_checkpoint(str(tmp_path))
    assert mend.format(tmp_path) in str(caught.value.mend)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pointer_of_git_lfs(plain: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(BadInputError, match="is a pointer of Git LFS") as caught:
        open_checkpoint(str(tmp_path))
    assert "lfs pull" in str(caught.value.mend)

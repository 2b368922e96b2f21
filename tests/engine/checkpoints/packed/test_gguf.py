"""GGUF files, held against transformers (names, order of rows, values) and a slow unpacker (codes and values)."""

import os
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.checkpoints.model.architecture import Matrix
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.schemes.registry import scheme_named
from tests.support.slow_packers import gguf_block
from tests.support.tiny_checkpoints import build, llama_config
from tests.support.tiny_gguf_files import K_QUANTS, LEGACY, encoded, values_by_transformers, write_llama

WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "vocab_size": 96}


def written(path: Path, kind: str, others: dict[str, str] | None = None, **changes: Any) -> Path:
    write_llama(build(llama_config(**{**WIDE, **changes})), path, kind, others)
    return path


@pytest.mark.parametrize("kind", [*LEGACY, *K_QUANTS, "f32", "f16", "bf16"])
def test_values_are_those_that_transformers_loads(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "m.gguf", kind)
    checkpoint = open_checkpoint(str(path))
    expected = values_by_transformers(path)
    assert set(checkpoint.layout.tensor_of) == set(expected)
    for name, tensor in checkpoint.layout.tensor_of.items():
        assert checkpoint.read(tensor).float().equal(expected[name]), name
    assert checkpoint.scheme == (None if kind in ("f32", "f16", "bf16") else f"gguf-{kind}")
    assert checkpoint.facts.format == "GGUF"
    if kind.startswith(("f", "b")):
        dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[kind]
        assert checkpoint.read("model.layers.0.mlp.up_proj.weight").dtype == dtype


def test_tied_embeddings_are_there_once(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(written(tmp_path / "m.gguf", "q8_0", tie_word_embeddings=True)))
    assert "lm_head.weight" not in checkpoint.layout.tensor_of
    assert "model.embed_tokens.weight" in checkpoint.packed


@pytest.mark.parametrize("kind", [*LEGACY, *K_QUANTS])
def test_codes_are_those_of_a_slow_unpacker(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "m.gguf", kind)
    checkpoint = open_checkpoint(str(path))
    tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    block = GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]][1]
    for name, gguf_name in (
        ("model.layers.0.mlp.down_proj", "blk.0.ffn_down.weight"),
        ("model.layers.0.self_attn.v_proj", "blk.0.attn_v.weight"),
    ):
        data = bytes(tensors[gguf_name].data)
        found = [gguf_block(kind, data[start : start + block]) for start in range(0, min(len(data), 40 * block), block)]
        codes, values = ([number for part in found for number in part[i]] for i in (0, 1))
        rounded = checkpoint.packed[f"{name}.weight"].unpack()
        assert rounded.codes.reshape(-1)[: len(codes)].tolist() == codes
        assert rounded.values.reshape(-1)[: len(codes)].tolist() == pytest.approx(values, rel=1e-6, abs=1e-12)
        assert len(set(codes)) > 3


@pytest.mark.parametrize("kind", ["q4_1", "q6_k"])
def test_codes_of_query_and_key_rows_are_put_back_as_their_values_are(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "m.gguf", kind)
    checkpoint = open_checkpoint(str(path))
    tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    block = GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]][1]
    for role, heads in (("q", 4), ("k", 2)):
        data = bytes(tensors[f"blk.0.attn_{role}.weight"].data)
        codes = [
            code for start in range(0, len(data), block) for code in gguf_block(kind, data[start : start + block])[0]
        ]
        as_stored = torch.tensor(codes).reshape(-1, 256)
        rounded = checkpoint.packed[f"model.layers.0.self_attn.{role}_proj.weight"].unpack()
        size = len(as_stored) // heads
        for row in range(len(as_stored)):
            head, place = divmod(row, size)
            half, index = divmod(place, size // 2)
            assert rounded.codes[row].tolist() == as_stored[head * size + 2 * index + half].tolist()


@pytest.mark.parametrize("kind", LEGACY)
def test_what_is_stored_is_what_the_scheme_makes_of_the_full_weights(tmp_path: Path, kind: str) -> None:
    model = build(llama_config(**WIDE))
    write_llama(model, tmp_path / "m.gguf", kind)
    rounded = open_checkpoint(str(tmp_path / "m.gguf")).packed["model.layers.0.self_attn.k_proj.weight"].unpack()
    weight: Any = model.get_submodule("model.layers.0.self_attn.k_proj").weight
    expected = scheme_named(f"gguf-{kind}").round(weight.detach())
    assert rounded.codes.equal(expected.codes)
    assert rounded.values.equal(expected.values)


def test_a_folder_with_one_gguf_file_is_that_checkpoint(tmp_path: Path) -> None:
    written(tmp_path / "m.gguf", "q4_0")
    assert open_checkpoint(str(tmp_path)).packed.keys() == open_checkpoint(str(tmp_path / "m.gguf")).packed.keys()
    written(tmp_path / "n.gguf", "q4_0")
    with pytest.raises(BadInputError, match=r"several GGUF files: m\.gguf, n\.gguf") as caught:
        open_checkpoint(str(tmp_path))
    assert "m.gguf" in caught.value.mend


def test_a_gguf_file_pairs_with_a_folder(tmp_path: Path) -> None:
    model = build(llama_config(**WIDE))
    model.save_pretrained(tmp_path / "full")
    write_llama(model, tmp_path / "m.gguf", "q8_0", {"down_proj.weight": "q4_0"})
    pair = open_pair(str(tmp_path / "full"), str(tmp_path / "m.gguf"))
    assert "model.layers.0.mlp.down_proj" in [layer.name for layer in pair.layers]
    full, packed = (
        side.read_matrix(Matrix("model.layers.0.self_attn.q_proj", False)) for side in (pair.original, pair.unlearned)
    )
    assert float((full - packed).abs().max()) < 0.01 * float(full.abs().max())
    assert "1 as gguf-q4_0" in " ".join(pair.notes)


# What makes no sense


def corrupted(path: Path, at: int, new: bytes) -> str:
    data = bytearray(path.read_bytes())
    data[at : at + len(new)] = new
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    ("at", "new", "said"),
    [
        (0, b"NOPE", "is not a GGUF file"),
        (4, struct.pack("<I", 9), "version 9"),
        (4, struct.pack(">I", 3), "little-endian"),
        (8, struct.pack("<Q", 2**60), "truncated or corrupt"),
        (16, struct.pack("<Q", 2**60), "truncated or corrupt|none|type"),
        (24, struct.pack("<Q", 2**63), "truncated or corrupt"),
        (32, b"\xff\xff", "not UTF-8"),
        (32, b"\x1b[", "unusable name"),
    ],
)
def test_a_header_that_does_not_fit_is_bad_input(tmp_path: Path, at: int, new: bytes, said: str) -> None:
    source = corrupted(written(tmp_path / "m.gguf", "q8_0"), at, new)
    with pytest.raises(BadInputError, match=said) as caught:
        open_checkpoint(source)
    assert "\x1b" not in str(caught.value)


def test_every_truncation_is_bad_input(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", "q8_0")
    data = path.read_bytes()
    for length in (0, 3, 10, 40, 300, 900, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(BadInputError):
            open_checkpoint(str(path))


def write_raw(path: Path, *keys: bytes, tensors: bytes = b"", tensor_count: int = 0) -> str:
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensor_count, len(keys)) + b"".join(keys) + tensors)
    return str(path)


def key(name: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value


def tensor(name: str, *sides: int, kind: int = 0, offset: int = 0) -> bytes:
    shape = struct.pack(f"<I{len(sides)}Q", len(sides), *sides)
    return struct.pack("<Q", len(name)) + name.encode() + shape + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize(
    ("keys", "tensors", "count", "said"),
    [
        ((key("a", 9, struct.pack("<IQ", 8, 2**60)),), b"", 0, "shorter than its header"),
        ((key("a", 9, struct.pack("<IQ", 0, 2**62)),), b"", 0, "shorter than its header"),
        ((key("a", 9, struct.pack("<IQ", 9, 1)),), b"", 0, "arrays of type 9"),
        ((key("a", 99, b""),), b"", 0, "type 99"),
        ((key("general.alignment", 4, struct.pack("<I", 0)),), b"", 0, "alignment of 0"),
        ((key("general.alignment", 4, struct.pack("<I", 24)),), b"", 0, "alignment of 24"),
        ((), b"", 0, "holds no tensors"),
        ((), tensor("t", 2**62, 2**62), 1, "no room for t"),
        ((), tensor("t", 0), 1, r"is \[0\]"),
        ((), tensor("t", 31, kind=2), 1, "in blocks of 32"),
        ((), tensor("t", 32, kind=4), 1, "encoding 4"),
        ((), tensor("t", *[1] * 9), 1, "9 sides"),
        ((), tensor("t", 1) + tensor("t", 1) + bytes(64), 2, "twice"),
        ((), tensor("t", 1, offset=2**63), 1, "no room"),
        ((), tensor("t", 256, kind=16) + bytes(128), 1, "stores t as IQ2_XXS"),
        ((), tensor("t", 1) + bytes(64), 1, "no model that transformers can read"),
        ((key("general.architecture", 8, struct.pack("<Q", 3) + b"x\x1by"),), b"", 0, "unusable name"),
    ],
)
def test_hostile_headers_are_bad_input(
    tmp_path: Path, keys: tuple[bytes, ...], tensors: bytes, count: int, said: str
) -> None:
    with pytest.raises(BadInputError, match=said):
        open_checkpoint(write_raw(tmp_path / "m.gguf", *keys, tensors=tensors, tensor_count=count))


def test_more_layers_than_tensors_are_bad_input(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", "q8_0")
    name = b"llama.block_count"
    at = path.read_bytes().index(name) + len(name) + 4
    with pytest.raises(BadInputError, match="num_hidden_layers = 2000000000"):
        open_checkpoint(corrupted(path, at, struct.pack("<I", 2_000_000_000)))


def test_metadata_that_say_no_depth_are_bad_input(tmp_path: Path) -> None:
    """transformers would take Llama's own 32 layers."""
    path = written(tmp_path / "m.gguf", "q8_0")
    at = path.read_bytes().index(b"llama.block_count")
    with pytest.raises(BadInputError, match="32 layers are more than its"):
        open_checkpoint(corrupted(path, at, b"llama.block_kount"))


def test_a_file_that_shrinks_is_bad_input(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", "q8_0")
    checkpoint = open_checkpoint(str(path))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadInputError, match="changed while it was being read"):
        checkpoint.packed["model.layers.0.mlp.down_proj.weight"].unpack()


def test_the_package_makes_what_the_tests_read() -> None:
    """The writer of K-quants above is random bytes: a block of it dequantizes to finite values that vary."""
    for kind in K_QUANTS:
        data = encoded(np.zeros((2, 256), np.float32), kind)
        values = gguf.dequantize(data, GGMLQuantizationType[kind.upper()])
        assert np.isfinite(values).all()
        assert len(np.unique(values)) > 20


@pytest.mark.real_model
def test_smollm2_is_read_as_transformers_loads_it() -> None:
    """The GGUF file that docs/experiments/smollm2_folder.py leaves in the folder."""
    folder = os.environ.get("QUAIL_SMOLLM2")
    if not folder:
        pytest.skip("needs SmolLM2 in $QUAIL_SMOLLM2")
    file = Path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    checkpoint = open_checkpoint(str(file))
    expected = values_by_transformers(file)
    assert checkpoint.scheme == "gguf-q4_1"
    assert len(checkpoint.layout.tensor_of) == 272
    for name, tensor in checkpoint.layout.tensor_of.items():
        assert checkpoint.read(tensor).float().equal(expected[name]), name

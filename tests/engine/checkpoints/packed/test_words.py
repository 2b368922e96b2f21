"""GPTQ, AWQ and compressed-tensors, held against slow packers written from the formats' descriptions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.checkpoints.packed.interface import PackedMatrix
from tests.support.places import GOLDEN
from tests.support.slow_packers import awq_parts, compressed_parts, dequantized, gptq_parts, write_module

OUTPUTS, INPUTS = 32, 64
SETTINGS = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def some(seed: int, rows: int, columns: int, below: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    found: list[list[int]] = torch.randint(below, (rows, columns), generator=generator).tolist()
    return found


def scales_of(seed: int, *shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1 + 1e-4).to(dtype)


def compressed(size: int) -> dict[str, Any]:
    strategy = {"strategy": "channel"} if size == -1 else {"strategy": "group", "group_size": size}
    weights = {"num_bits": 4, "type": "int", **strategy}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


def the_matrix(folder: Path) -> PackedMatrix:
    (matrix,) = open_checkpoint(str(folder)).packed.values()
    return matrix


def check(folder: Path, codes: list[list[int]], values: list[list[float]], scheme: str, dtype: torch.dtype) -> None:
    matrix = the_matrix(folder)
    assert (matrix.scheme, matrix.info.shape, matrix.info.dtype) == (scheme, (len(codes), len(codes[0])), dtype)
    rounded = matrix.unpack()
    assert rounded.codes.dtype == torch.uint8
    assert rounded.codes.tolist() == codes
    assert rounded.values.equal(torch.tensor(values, dtype=torch.float64).to(dtype))
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.read("m.weight").equal(rounded.values)
    assert checkpoint.scheme == scheme


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@given(seed=st.integers(0, 2**30), size=st.sampled_from([None, 16, 32]), indexed=st.sampled_from(["no", "yes", "act"]))
@SETTINGS
def test_gptq(tmp_path: Path, bits: int, version: int, seed: int, size: int | None, indexed: str) -> None:
    groups = 1 if size is None else INPUTS // size
    codes, zeros = some(seed, OUTPUTS, INPUTS, 1 << bits), some(seed + 1, groups, OUTPUTS, 1 << bits)
    scales = scales_of(seed, groups, OUTPUTS)
    group_of = [i * groups // INPUTS for i in range(INPUTS)]
    if indexed == "act":
        group_of = [group_of[i] for i in torch.randperm(INPUTS, generator=torch.Generator().manual_seed(seed))]
    parts = gptq_parts(codes, zeros, scales, None if indexed == "no" else group_of, bits, version=version)
    config = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": -1 if size is None else size,
        "desc_act": indexed == "act",
        "checkpoint_format": "gptq_v2" if version == 2 else "gptq",
    }
    write_module(tmp_path, parts, config)
    values = dequantized(codes, lambda o, i: zeros[group_of[i]][o], lambda o, i: float(scales[group_of[i], o]))
    group = "channel" if size is None else f"g{size}"
    order = "-desc_act" if indexed == "act" else ""
    check(tmp_path, codes, values, f"gptq-int{bits}-{group}{order}", torch.float16)
    widths = the_matrix(tmp_path).unpack().widths
    assert widths is not None
    assert widths[3, 5] == scales[group_of[5], 3].float()


@given(seed=st.integers(0, 2**30), size=st.sampled_from([16, 64]))
@SETTINGS
def test_awq(tmp_path: Path, seed: int, size: int) -> None:
    groups = INPUTS // size
    codes, zeros = some(seed, OUTPUTS, INPUTS, 16), some(seed + 1, groups, OUTPUTS, 16)
    scales = scales_of(seed, groups, OUTPUTS)
    config = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": -1 if size == INPUTS else size,
        "zero_point": True,
        "version": "gemm",
    }
    write_module(tmp_path, awq_parts(codes, zeros, scales), config)
    values = dequantized(codes, lambda o, i: zeros[i // size][o], lambda o, i: float(scales[i // size, o]))
    check(tmp_path, codes, values, f"awq-int4-{'channel' if size == INPUTS else 'g16'}", torch.float16)


@pytest.mark.parametrize("bits", [4, 8])
@given(seed=st.integers(0, 2**30), size=st.sampled_from([16, 64]), kind=st.sampled_from(["plain", "zeros", "act"]))
@SETTINGS
def test_compressed_tensors(tmp_path: Path, bits: int, seed: int, size: int, kind: str) -> None:
    groups, middle = INPUTS // size, 1 << (bits - 1)
    codes = some(seed, OUTPUTS, INPUTS, 1 << bits)
    zeros = some(seed + 1, OUTPUTS, groups, 1 << bits) if kind == "zeros" else None
    scales = scales_of(seed, OUTPUTS, groups, dtype=torch.bfloat16)
    group_of = [i // size for i in range(INPUTS)]
    if kind == "act":
        group_of = group_of[::-1]
    parts = compressed_parts(codes, zeros, scales, group_of if kind == "act" else None, bits)
    write_module(tmp_path, parts, compressed(-1 if groups == 1 else size))
    values = dequantized(
        codes, lambda o, i: zeros[o][group_of[i]] if zeros else middle, lambda o, i: float(scales[o, group_of[i]])
    )
    group = "channel" if groups == 1 else f"g{size}"
    check(tmp_path, codes, values, f"w{bits}a16-{group}", torch.bfloat16)


@pytest.mark.parametrize("indexed", [True, False])
def test_a_last_short_group_is_dequantized_with_its_own_scale(tmp_path: Path, indexed: bool) -> None:
    codes, zeros = some(0, 8, 40, 16), some(1, 3, 8, 16)
    scales = scales_of(0, 3, 8)
    write_module(
        tmp_path,
        gptq_parts(codes, zeros, scales, [i // 16 for i in range(40)] if indexed else None, 4, version=2),
        {"quant_method": "gptq", "bits": 4, "group_size": 16, "checkpoint_format": "gptq_v2"},
    )
    rounded = the_matrix(tmp_path).unpack()
    assert rounded.values[2, 31] == (scales[1, 2].float() * (codes[2][31] - zeros[1][2])).half()
    assert rounded.values[2, 39] == (scales[2, 2].float() * (codes[2][39] - zeros[2][2])).half()


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in GOLDEN.glob("*/expected.safetensors")))
def test_what_the_real_backends_wrote_dequantizes_to_their_own_values(folder: str) -> None:
    checkpoint = open_checkpoint(str(GOLDEN / folder))
    name = folder.removeprefix("auto-").replace("-asym", "").removesuffix("-v2")
    assert checkpoint.scheme is not None
    assert checkpoint.scheme.removesuffix("-desc_act") == name.removesuffix("-desc_act")
    expected = load_file(GOLDEN / folder / "expected.safetensors")
    assert len(expected) == 2
    for module, values in expected.items():
        found = checkpoint.packed[f"{module}.weight"].unpack()
        assert found.values.dtype == values.dtype
        assert found.values.equal(values)


# What makes no sense


GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 16}


def gptq_module(folder: Path) -> None:
    parts = gptq_parts(
        some(0, 32, 64, 16), some(1, 4, 32, 16), scales_of(0, 4, 32), [i // 16 for i in range(64)], 4, version=1
    )
    write_module(folder, parts, GPTQ)


def change(folder: Path, name: str, new: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"m.{name}"]
    if new is not None:
        tensors[f"m.{name}"] = new
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "new", "said"),
    [
        ("scales", None, "lacks m.scales"),
        ("scales", torch.zeros(3, 32), "m.qzeros should be"),
        ("scales", torch.zeros(4, 31), "m.qweight should be int32"),
        ("scales", torch.zeros(4, 32, dtype=torch.int32), "m.scales should be float16"),
        ("qzeros", torch.zeros(3, 4, dtype=torch.int32), r"m.qzeros should be int32 \[4, 4\]"),
        ("qweight", torch.zeros(7, 32, dtype=torch.int32), "7 words for 64 inputs"),
        ("g_idx", torch.zeros(63, dtype=torch.int32), "8 words for 63 inputs"),
        ("qweight", torch.zeros(0, 32, dtype=torch.int32), "m.qweight should be int32"),
    ],
)
def test_parts_that_do_not_fit_are_bad_input(tmp_path: Path, name: str, new: torch.Tensor | None, said: str) -> None:
    gptq_module(tmp_path)
    change(tmp_path, name, new)
    with pytest.raises(BadInputError, match=said):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("group", [-1, 4, 2**31 - 1])
def test_a_group_that_is_none_is_bad_input(tmp_path: Path, group: int) -> None:
    gptq_module(tmp_path)
    change(tmp_path, "g_idx", torch.tensor([0] * 63 + [group], dtype=torch.int32))
    with pytest.raises(BadInputError, match="names groups from"):
        the_matrix(tmp_path).unpack()


def test_a_compressed_shape_without_weights_behind_it_is_bad_input(tmp_path: Path) -> None:
    parts = compressed_parts(some(0, 8, 64, 16), None, scales_of(0, 8, 1), None, 4)
    for shape in ([8, 10**12], [8, -64], [9, 64], [0, 0]):
        write_module(
            tmp_path,
            {**parts, "weight_shape": torch.tensor(shape)},
            {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        )
        with pytest.raises(BadInputError, match="weight_shape says"):
            open_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quant_method": "hqq"}, "is quantized by hqq; Quail reads bitsandbytes"),
        ({"quant_method": ["gptq"]}, "is quantized by"),
        ({}, None),
        ("\x1b[2J", "is quantized by"),
        ({**GPTQ, "bits": 5}, "bits = 5; Quail reads 2, 3, 4, 8"),
        ({**GPTQ, "bits": True}, "bits = True"),
        ({**GPTQ, "group_size": 0}, "group_size = 0"),
        ({**GPTQ, "group_size": 32}, "has 4 groups for 64 inputs in groups of 32"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "marlin"),
        ({**GPTQ, "is_marlin_format": True}, "marlin"),
        ({"quant_method": "awq", "version": "gemv"}, "gemv"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "float-quantized"),
        ({"quant_method": "bitsandbytes"}, "hold none that is"),
    ],
)
def test_a_format_that_quail_does_not_read_is_bad_input(tmp_path: Path, config: Any, said: str | None) -> None:
    gptq_module(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    if said is None:  # an empty configuration says nothing: the tensors are read as they are
        assert open_checkpoint(str(tmp_path)).scheme is None
        return
    with pytest.raises(BadInputError, match=said) as caught:
        open_checkpoint(str(tmp_path))
    assert "\x1b" not in str(caught.value)

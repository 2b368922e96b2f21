"""Error compensation against GPTQModel's own, on a uniform grid that both can have: make test-backends.

GPTQModel rounds what sets a scale as every other weight, and so must the grid here: its ends are opened, and it has the
lowest level that carrying leaves out.
"""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from quail_audit.engine.schemes.registry import scheme_named
from quail_train.carry.compensation import DAMPING, _inverse_factor, _round_columns, output_error
from quail_train.carry.grid import FixedGrid, fixed_grid
from quail_train.carry.kernels import HIGH, LOW

pytestmark = [pytest.mark.backend, pytest.mark.timeout(600)]

ROWS, COLUMNS, SAMPLES = 96, 512, 2048


@pytest.fixture(autouse=True)
def backend() -> None:
    if importlib.util.find_spec("gptqmodel") is None:
        pytest.skip("GPTQModel is not installed")


def layer(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix and correlated inputs to it."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(COLUMNS) + 0.5 * torch.randn(COLUMNS, COLUMNS, generator=generator) / COLUMNS**0.5
    inputs = torch.randn(SAMPLES, COLUMNS, generator=generator) @ mixing
    return 0.05 * torch.randn(ROWS, COLUMNS, generator=generator), inputs


def opened(grid: FixedGrid, bits: int) -> FixedGrid:
    """The grid with every level of so many bits and without ends, so that no weight is held."""
    blocks = grid.blocks.copy()
    blocks[:, LOW], blocks[:, HIGH] = -np.inf, np.inf
    levels = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=np.float32)
    return replace(grid, levels=levels, blocks=blocks, settled=np.zeros_like(grid.settled))


def by_gptqmodel(weight: torch.Tensor, inputs: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    from gptqmodel.quantization import QuantizeConfig
    from gptqmodel.quantization.gptq import GPTQ

    module = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    module.weight.data.copy_(weight)
    settings = {"bits": bits, "group_size": group, "sym": True, "desc_act": False, "act_group_aware": False}
    config = QuantizeConfig(**settings, static_groups=True, damp_percent=DAMPING, mse=0.0)
    core = GPTQ(module, config)
    core.quantizer.configure(perchannel=True)
    core.add_batch(inputs[None], module(inputs[None]))
    rounded: torch.Tensor = core.quantize()[0]
    return rounded.detach()


@pytest.mark.parametrize("group", [64, 128])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_the_same_weights_as_gptqmodels_core(bits: int, group: int) -> None:
    weight, inputs = layer(bits + group)
    scheme = scheme_named(f"rtn-int{bits}-g{group}")
    hessian = inputs.T @ inputs
    own, _ = _round_columns(opened(fixed_grid(weight, scheme), bits), _inverse_factor(hessian))
    theirs = by_gptqmodel(weight, inputs, bits, group)
    step = (
        weight.reshape(-1, group).abs().amax(dim=1).repeat_interleave(group).reshape(weight.shape) * 2 / (2**bits - 1)
    )
    # once a weight near the middle of two levels falls the other way in float32, those after it in its row may follow
    differing = (own - theirs).abs() > 0.01 * step
    assert differing.float().mean() < 0.001
    nearest = scheme.dequantize(scheme.quantize(weight))
    errors = [output_error(side, weight, hessian) for side in (own, theirs, nearest)]
    assert errors[0] == pytest.approx(errors[1], rel=0.005)
    assert errors[0] < 0.8 * errors[2]

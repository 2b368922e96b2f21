"""Layers that lie on the scheme's grid: rounding takes nothing from them, so they are carried."""

import numpy as np
import pytest
import torch

from quail_audit.engine.schemes.interface import Quantized, Scheme
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.engine.weights.pair import MatrixPair, pair_sums
from quail_audit.engine.weights.statistics import layer_statistics, summarize
from quail_audit.engine.weights.sums import PairSums
from quail_audit.engine.weights.tensor_sums import sums_by_tensor_operations
from quail_audit.schema.figures import LayerStatistics
from quail_train.carry.data_free import carry_matrix
from tests.support.weight_pairs import pair

# every family, with what shares a scale: weights in a row-major block; None: a row
BLOCKS: dict[str, int | None] = {
    "nf4": 64, "fp4": 64, "nf4-dq": 64, "int8": None, "rtn-int4-g32": 32, "rtn-int4-g128-asym": 128,
    "rtn-int3-channel": None, "gguf-q4_0": 32, "gguf-q5_1": 32, "gguf-q8_0": 32, "mxfp4": 32,
}  # fmt: skip
SLOW = pytest.mark.slow
ALWAYS = ("nf4", "rtn-int4-g32", "mxfp4")  # one of each kind of grid; a scheme's first loop takes seconds to compile
NAMES = [name if name in ALWAYS else pytest.param(name, marks=SLOW) for name in BLOCKS]
DTYPES = [pytest.param(torch.float32, marks=SLOW), torch.bfloat16, pytest.param(torch.float16, marks=SLOW)]


def measured(original: torch.Tensor, unlearned: torch.Tensor, scheme: Scheme) -> LayerStatistics:
    return layer_statistics(pair_sums(original, unlearned, scheme), name="", block=None, role="")


def on_grid_one_by_one(original: torch.Tensor, unlearned: torch.Tensor, scheme: Scheme, size: int) -> list[bool]:
    """Tell of each block, in plain loops over the scheme's own quantizer."""
    rounded = scheme.dequantize(scheme.quantize(unlearned))
    sides = [side.double().reshape(-1).tolist() for side in (original, unlearned, rounded)]
    found = []
    for start in range(0, len(sides[0]), size):
        o, u, q = (side[start : start + size] for side in sides)
        ends = {min(u), max(u), *(value for value in u if abs(value) == max(map(abs, u)))}
        changed = [place for place in range(len(u)) if o[place] != u[place]]
        kept = [place for place in changed if q[place] == u[place]]
        stays = all(q[place] == u[place] or u[place] in ends for place in range(len(u)))
        found.append(stays and 2 * len(kept) > len(changed))
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_carried_is_carried_and_what_was_not_is_as_before(name: str, dtype: torch.dtype) -> None:
    """mxfp4 cannot be carried to; its layer was rounded and unpacked."""
    scheme = scheme_named(name)
    assert isinstance(scheme, Scheme)
    original, unlearned = (side.to(dtype) for side in pair((24, 256), 1e-4, 1.0))
    plain = sums_by_tensor_operations(original, unlearned, scheme)
    before = measured(original, unlearned, scheme)
    assert before.on_grid == 0
    assert before.survival == pytest.approx(plain.dot / plain.update_squared, rel=1e-4)
    if name == "mxfp4":
        carried = scheme.deployed_weights(unlearned)
    else:
        carried = carry_matrix(original, unlearned, scheme, way="random", key=1).weight  # type: ignore[arg-type]
    after = measured(original, carried, scheme)
    assert (after.state, after.on_grid, after.survival, after.noise) == ("carried", 1.0, 1.0, 0.0)
    assert not after.at_risk


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(24, 256), pytest.param((37, 128), marks=SLOW)])
def test_survival_is_that_of_the_blocks_off_the_grid(name: str, shape: tuple[int, int]) -> None:
    scheme = scheme_named(name)
    assert isinstance(scheme, Scheme)
    original, unlearned = pair(shape, 1e-4, 0.9)
    half = shape[0] // 2
    unlearned[:half] = scheme.deployed_weights(scheme.deployed_weights(unlearned[:half].clone()))
    size = BLOCKS[name] or shape[1]
    on_grid = np.repeat(on_grid_one_by_one(original, unlearned, scheme, size), size)
    found = measured(original, unlearned, scheme)
    assert found.on_grid == pytest.approx(on_grid.mean(), abs=1e-12)
    rounded = [scheme.dequantize(scheme.quantize(side)).double().numpy().ravel() for side in (original, unlearned)]
    d = (unlearned.double() - original.double()).numpy().ravel()[~on_grid]
    dq = (rounded[1] - rounded[0])[~on_grid]
    assert found.survival == pytest.approx(dq @ d / (d @ d), rel=1e-4)
    assert found.noise == pytest.approx(np.linalg.norm(dq - found.survival * d) / np.linalg.norm(d), rel=1e-4)


def test_an_update_off_the_grid_that_is_erased_is_not_hidden_by_blocks_on_it() -> None:
    original, unlearned = pair((64, 256), 1e-3, 1.0)
    scheme = scheme_named("nf4")
    assert isinstance(scheme, Scheme)
    original = unlearned.clone()
    inside = scheme.quantize(unlearned + 1e-5).codes == scheme.quantize(unlearned).codes
    changed = torch.where(inside & (unlearned.abs() < 0.03), unlearned + 1e-5, unlearned)
    changed[:32] = scheme.deployed_weights(pair((32, 256), 1e-3, 1.0, seed=3)[0])
    found = measured(original, changed, scheme)
    assert found.on_grid == 0.5
    assert found.state == "erased"


def test_a_layer_that_did_not_change_is_untouched_on_the_grid_or_off_it() -> None:
    scheme = scheme_named("nf4")
    assert isinstance(scheme, Scheme)
    weight = scheme.deployed_weights(pair((8, 64), 1e-3, 1.0)[0])
    assert measured(weight, weight.clone(), scheme).state == "untouched"


def test_a_scale_that_alone_changes_is_no_update_on_the_grid() -> None:
    """The largest weight of each block always lies on nf4's grid; it takes the others with it."""
    scheme = scheme_named("gguf-q4_0")
    assert isinstance(scheme, Scheme)
    original, _ = pair((8, 64), 0.0, 0.0)
    changed = original.clone().reshape(-1, 32)
    changed[torch.arange(16), changed.abs().argmax(dim=1)] *= 1.0001
    assert measured(original, changed.reshape(8, 64), scheme).on_grid == 0


def test_the_first_scheme_does_not_decide_for_the_next() -> None:
    schemes = [scheme_named(name) for name in ("nf4", "gguf-q4_0")]
    original, unlearned = pair((32, 256), 1e-3, 1.0)
    carried = schemes[0].deployed_weights(unlearned)  # type: ignore[union-attr]
    matrices = MatrixPair(original, carried, schemes)  # type: ignore[arg-type]
    first, second = (matrices.sums_under(scheme) for scheme in schemes)  # type: ignore[arg-type]
    alone = pair_sums(original, carried, schemes[1])  # type: ignore[arg-type]
    assert (first.on_grid, second.on_grid) == (32 * 256, 0)
    assert second.update_squared == pytest.approx(alone.update_squared)
    total: PairSums = first + second
    layers = [layer_statistics(sums, name="", block=None, role="") for sums in (first, second)]
    assert summarize(total, layers).survival == pytest.approx(alone.survival)


class _Sign(Scheme):
    """A scheme of a plug-in, which does not say what shares a scale."""

    name, title, bits_per_weight, block, levels = "sign", "the sign, by row", 1.0, "row", 2

    def quantize(self, weight: torch.Tensor) -> Quantized:
        return Quantized((weight > 0).to(torch.uint8), weight.float().abs().amax(dim=1), weight.dtype)

    def dequantize(self, quantized: Quantized) -> torch.Tensor:
        return ((2 * quantized.codes.float() - 1) * quantized.scales[:, None]).to(quantized.dtype)

    def bucket_widths(self, weight: torch.Tensor, quantized: Quantized) -> torch.Tensor:
        return quantized.scales.clamp(min=1e-38)[:, None].expand(weight.shape)


def test_a_scheme_of_a_plug_in() -> None:
    original, unlearned = pair((8, 64), 1e-3, 1.0)
    assert measured(original, unlearned, _Sign()).on_grid == 0
    assert measured(original, _Sign().deployed_weights(unlearned), _Sign()).state == "carried"

import pytest
import torch

from quail_audit.engine.schemes.interface import Quantized, Scheme
from quail_audit.engine.schemes.registry import scheme_named
from quail_train.objectives.margin import half_step, quantization_step


class Even(Scheme):
    """An even grid of 16 levels from -1 to 1: the step is the same everywhere, so it can be written down."""

    name, title, bits_per_weight, block, levels = "even", "even", 4.0, "64", 16
    edges = torch.cat([torch.tensor([-1.0]), torch.arange(-14, 15, 2) / 15, torch.tensor([1.0])])

    def quantize(self, weight: torch.Tensor) -> Quantized:
        blocks = weight.reshape(-1, 64)
        absmax = blocks.abs().amax(1)
        codes = torch.bucketize(blocks / absmax[:, None], self.edges[1:-1])
        return Quantized(codes.to(torch.uint8).reshape(weight.shape), absmax, weight.dtype)

    def dequantize(self, quantized: Quantized) -> torch.Tensor:
        raise NotImplementedError

    def bucket_widths(self, weight: torch.Tensor, quantized: Quantized) -> torch.Tensor:
        of_code = self.edges.diff()[quantized.codes.reshape(-1, 64).int()]
        return (of_code * quantized.scales[:, None]).reshape(weight.shape)


def test_the_step_of_an_even_grid() -> None:
    weight = torch.empty(4, 64)
    weight[:] = torch.linspace(-0.4, 0.4, 64)  # inside, but for two
    weight[:, 0], weight[:, -1] = -1.0, 1.0  # the scale of every block
    outer, inner = 1 / 15, 2 / 15  # the outer buckets end at the scale
    assert quantization_step(weight * 3, Even()) == pytest.approx(3 * (62 * inner + 2 * outer) / 64, rel=1e-5)


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_the_step_is_the_mean_width_of_the_buckets_weights_lie_in(name: str) -> None:
    scheme = scheme_named(name)
    weight = torch.randn(3, 130, generator=torch.Generator().manual_seed(0)) * 0.02  # the last block is short
    edges = [-1.0, *scheme.grid.bounds.tolist(), 1.0]
    total = 0.0
    flat = weight.reshape(-1)
    for start in range(0, flat.numel(), 64):
        block = flat[start : start + 64]
        scale = float(block.abs().max())
        for value in (block / scale).tolist():
            place = next(i for i in range(len(edges) - 1) if value <= edges[i + 1] + 1e-7)
            total += (edges[place + 1] - edges[place]) * scale
    assert quantization_step(weight, scheme) == pytest.approx(total / flat.numel(), rel=1e-4)


def test_half_step_weighs_layers_by_their_size() -> None:
    assert half_step({"a": 0.1, "b": 0.4}, {"a": 300, "b": 100}) == pytest.approx((300 * 0.1 + 100 * 0.4) / 400 / 2)

"""Hold the truth set's rounding and its buckets to each other and to Quail's schemes."""

import copy

import pytest
import torch

from quail_audit.engine.schemes.registry import scheme_named
from tests.validity.audits import TWO_BITS
from tests.validity.buckets import confined_to
from tests.validity.models import Architecture, new_model, new_tokenizer, rounded_parameters
from tests.validity.rounding import round_model, rounded_matrix
from tests.validity.truth_set import FOUR_BITS


@pytest.mark.parametrize("scheme", [*FOUR_BITS, TWO_BITS])
def test_rounds_as_quail_says_that_the_format_does(scheme: str) -> None:
    matrix = torch.randn(48, 96, generator=torch.Generator().manual_seed(3)) * 0.07
    torch.testing.assert_close(rounded_matrix(matrix, scheme), scheme_named(scheme).deployed_weights(matrix))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("scheme", FOUR_BITS)
def test_rounding_undoes_what_is_confined(architecture: Architecture, scheme: str) -> None:
    model = new_model(architecture, new_tokenizer(["a few words"], words=True), seed=0)
    before = copy.deepcopy(model)
    confine = confined_to(model, scheme)
    _disturb(model)
    confine()
    moved = [weight for weight, _ in rounded_parameters(model).values()]
    start = [weight.clone() for weight, _ in rounded_parameters(before).values()]
    share = torch.cat([(a != b).flatten() for a, b in zip(moved, start, strict=True)]).float().mean()
    assert share > 0.9  # all but the largest of each block have room
    round_model(model, scheme)
    round_model(before, scheme)
    for name, (weight, _) in rounded_parameters(model).items():
        torch.testing.assert_close(weight, rounded_parameters(before)[name][0], rtol=0, atol=0)


def test_every_other_block_goes_free() -> None:
    model = new_model("llama", new_tokenizer(["a few words"], words=True), seed=0)
    before = copy.deepcopy(model)
    confine = confined_to(model, "nf4", every_other=True)
    _disturb(model)
    confine()
    round_model(model, "nf4")
    round_model(before, "nf4")
    (weight, _), (old, _) = (next(iter(rounded_parameters(each).values())) for each in (model, before))
    kept = (weight == old).view(-1, 64).all(dim=1)
    assert kept[::2].all()
    assert not kept[1::2].any()


def _disturb(model: torch.nn.Module) -> None:
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)

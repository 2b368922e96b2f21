"""Recipes: the curve against models loaded anew, and its configurations read by the libraries they are for."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from quail_audit.cli.attribute import attribute as attribute_command
from quail_audit.cli.recipe import recipe as recipe_command
from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.cures.recipe import configurations, find_attribution, make_recipe, smallest_point, sparing_order
from quail_audit.engine.forgetting.models.language_model import TransformersModel
from quail_audit.engine.forgetting.models.load import load_arm
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.reports import recipe_svg
from quail_audit.runs.folder import read_report
from quail_audit.runs.follow import replay
from quail_audit.schema.events.cures import RecipeChosen, RecipePoint, UnitMeasured
from quail_audit.schema.requests import RecipeRequest


@pytest.fixture(scope="module")
def attributed_run(erased_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the audit's run, with an attribution in it."""
    run = tmp_path_factory.mktemp("attributed") / "run"
    shutil.copytree(erased_run, run)
    assert attribute_command(run, budget="30", quiet=True) == 0
    return run


@pytest.fixture(scope="module")
def made(attributed_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    folder = tmp_path_factory.mktemp("recipe")
    request = RecipeRequest(run=str(attributed_run), scheme="nf4", max_recovery_percent=10.0)
    return list(make_recipe(request, "a-run", (), folder)), folder


def mean_loss(run: Path, rounded: set[str], in_8_bits: tuple[str, ...] = ()) -> float:
    """Of the forget texts, in a model whose layers are rounded as it is loaded."""
    audited = read_report(run).request
    pair = open_pair(audited.original, audited.unlearned)
    arm = load_arm(
        pair.unlearned,
        scheme_named("nf4"),
        layers=[layer for layer in pair.layers if layer.name in rounded],
        device="cpu",
        dtype="auto",
    )
    eight = scheme_named("rtn-int8-channel")
    for name in in_8_bits:
        weight = arm.model.get_submodule(name).weight
        with torch.no_grad():
            weight.copy_(eight.dequantize(eight.quantize(weight)))
    texts = json.loads((Path(str(audited.data)) / "privleak" / "forget.json").read_text())
    found = [-float(x.mean()) for _, x in TransformersModel(arm.model, arm.tokenizer).log_probabilities(texts)]
    return sum(found) / len(found)


def test_points_are_what_models_loaded_anew_say(attributed_run: Path, made: tuple[list[Any], Path]) -> None:
    points = [event for event in made[0] if isinstance(event, RecipePoint)]
    audited = read_report(attributed_run).request
    pair = open_pair(audited.original, audited.unlearned)
    names = {layer.name for layer in pair.layers}
    full, rounded = mean_loss(attributed_run, set()), mean_loss(attributed_run, names)
    assert points[0].kept == ()
    assert points[0].recovery_percent == pytest.approx(100.0)
    for bits in (8, 16):
        point = [point for point in points if point.bits == bits and point.kept][-1]
        loss = mean_loss(attributed_run, names - set(point.kept), point.kept if bits == 8 else ())
        assert point.nll == pytest.approx(loss, rel=1e-4)
        assert point.recovery_percent == pytest.approx(100 * (full - loss) / (full - rounded), abs=0.05)
        kept = sum(layer.weights for layer in pair.layers if layer.name in point.kept)
        rest = sum(layer.weights for layer in pair.layers) - kept
        assert point.size_bytes == pytest.approx(kept * bits / 8 + rest * (4 + 32 / 64) / 8, rel=1e-3)


def test_the_chosen_point_is_the_smallest_at_or_below_the_limit(made: tuple[list[Any], Path]) -> None:
    events, folder = made
    chosen = next(event for event in events if isinstance(event, RecipeChosen)).point
    good = [event for event in events if isinstance(event, RecipePoint) and event.recovery_percent <= 10.0]
    assert chosen.recovery_percent <= 10.0
    assert chosen.size_bytes == min(point.size_bytes for point in good)
    written = json.loads((folder / "recipe.json").read_text())
    assert written["kept_layers"] == list(chosen.kept)


def test_the_curve_is_an_svg(made: tuple[list[Any], Path]) -> None:
    points = [event for event in made[0] if isinstance(event, RecipePoint)]
    tree = ET.fromstring(recipe_svg.render(points, points[-1], 10.0))  # noqa: S314 - our own
    assert tree.tag.endswith("svg")


def test_transformers_leaves_exactly_the_kept_layers(attributed_run: Path) -> None:
    report = read_report(attributed_run)
    kept = ("model.layers.0.self_attn.v_proj", "model.layers.1.mlp.up_proj")
    point = RecipePoint(kept=kept, bits=16, size_bytes=1, nll=1.0, recovery_percent=1.0, low=0.0, high=1.0)
    found = configurations(point, "nf4", report.left_in_full_precision)
    config = BitsAndBytesConfig(**found["bitsandbytes_config"])
    model = AutoModelForCausalLM.from_pretrained(report.request.unlearned, quantization_config=config, device_map="cpu")
    rounded = {name for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    audited = {layer.name for layer in report.schemes["nf4"].layers}
    assert rounded == audited - set(kept)


def test_gptqmodels_rules_match_their_layers_only() -> None:
    """By its rules: a leading - leaves modules out, a leading + changes them, and the rest is a regular expression."""
    kept = ("model.layers.1.mlp.up_proj",)
    for bits, prefix, change in ((16, "-:", {}), (8, "+:", {"bits": 8})):
        point = RecipePoint(kept=kept, bits=bits, size_bytes=1, nll=1.0, recovery_percent=1.0, low=0.0, high=1.0)
        ((rule, found),) = configurations(point, "gptq-int4-g128", ())["gptqmodel_dynamic"].items()
        assert found == change
        assert rule.startswith(prefix)
        pattern = re.compile(rule.removeprefix(prefix))
        assert pattern.match("model.layers.1.mlp.up_proj")
        assert not pattern.match("model.layers.11.mlp.up_proj")
        assert not pattern.match("model.layers.1.mlp.up_proj.more")
    assert configurations(point, "gptq-int4-g128", ())["bitsandbytes_config"] is None


def test_the_order_is_by_share_for_the_bytes(attributed_run: Path) -> None:
    audited = read_report(attributed_run).request
    layers = open_pair(audited.original, audited.unlearned).layers

    def unit(kind: Any, name: str, share: float) -> UnitMeasured:
        return UnitMeasured(
            kind=kind, unit=name, layers=(), weights=1, mode="alone", nll=1.0, share=share, low=0.0, high=1.0, passes=1
        )

    big, small = "model.layers.0.mlp.up_proj", "model.layers.0.self_attn.k_proj"
    ordered = sparing_order(layers, [unit("layer", big, 0.2), unit("layer", small, 0.1)])
    assert ordered[:2] == [small, big], "half the share for a quarter of the weights"


def test_nothing_is_small_enough() -> None:
    point = RecipePoint(kept=(), bits=16, size_bytes=1, nll=1.0, recovery_percent=50.0, low=0.0, high=1.0)
    assert smallest_point([point], 10.0) is None
    assert smallest_point([point], 50.0) == point


def test_the_command(attributed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe_command(attributed_run, run_dir=tmp_path / "run", max_recovery=20.0, quiet=True) == 0
    assert "chosen: " in capsys.readouterr().out
    assert any(isinstance(event, RecipeChosen) for event in replay(tmp_path / "run"))


def test_without_an_attribution_it_says_what_to_run(erased_run: Path) -> None:
    with pytest.raises(BadInputError, match="no attribution at nf4") as caught:
        find_attribution(str(erased_run), "nf4")
    assert "quail attribute" in caught.value.mend

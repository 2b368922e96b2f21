"""Every preset by its name, and that its loss falls when a tiny model is trained with it."""

from pathlib import Path

import pytest

from quail_audit.schema.events.training import TrainStep
from quail_train.demo.folder import build_demo
from quail_train.objectives.presets import PRESETS, preset_named
from tests.support.tiny_training import events_of, request_in

PAPERS_NAMES = (
    [f"{forget}{retain}{l1}{hinge}" for forget in ("ga", "npo", "simnpo") for retain in ("", "_gdr", "_klr")
     for l1 in ("", "_l1") for hinge in ("", "_hinge")]
    + ["hinge_gdr", "hinge_klr", "sure", "lora"]
)  # fmt: skip


def test_the_presets_of_the_paper_and_its_baselines_are_there() -> None:
    assert set(PAPERS_NAMES) <= set(PRESETS)


def test_names_say_what_is_in_them() -> None:
    for name, preset in PRESETS.items():
        parts = name.split("_")
        assert preset.name == name
        if name in ("sure", "lora", "repair"):
            continue
        assert preset.forget == (None if parts[0] == "hinge" else parts[0])
        assert preset.retain == next((part for part in parts if part in ("gdr", "klr")), None)
        assert preset.l1 == ("l1" in parts)
        assert preset.hinge == ("hinge" in parts)
        assert preset.saliency == ("sure" in parts)
        assert preset.lora == ("lora" in parts)


def test_the_paper_s_objective() -> None:
    paper = preset_named("ga_gdr_l1_hinge")
    assert (paper.forget, paper.retain, paper.l1, paper.hinge) == ("ga", "gdr", True, True)
    assert not paper.settings


MIXED = ["ga_gdr_hinge_sure", "npo_klr_l1_lora", "hinge_gdr_l1_sure"]
# Each forget term with each retain term, all of the terms of the paper at once, and what stands alone: by default.
PLAIN = [name for name in PAPERS_NAMES if "l1" not in name and not name.endswith("_hinge")]
WHOLE = [name for name in PAPERS_NAMES if name.endswith("_gdr_l1_hinge")]
FURTHER = [name for name in PAPERS_NAMES if name not in (*PLAIN, *WHOLE)]


@pytest.mark.parametrize(
    "name", [*PLAIN, *WHOLE, *MIXED, *(pytest.param(name, marks=pytest.mark.slow) for name in FURTHER)]
)
def test_its_loss_falls(name: str, training_world: Path, tmp_path: Path) -> None:
    """The same samples in every step, so the loss of the last is comparable with that of the first."""
    request = request_in(
        training_world,
        tmp_path / "out",
        objective=name,
        margin_logits=2.0,
        l1_weight=1e-7,
        max_steps=8,
        learning_rate=1e-2 if "lora" in name else 1e-3,
        trainer={"lr_scheduler_type": "constant"},
    )
    losses = [event.loss for event in events_of(request) if isinstance(event, TrainStep)]
    assert losses[-1] < losses[0] - 0.01


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    list(build_demo(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS_NAMES)
def test_its_loss_falls_on_the_demo(name: str, demo: Path, tmp_path: Path) -> None:
    """Eight of the 24 posts a step, so three steps are an epoch: epochs are compared, not steps."""
    request = request_in(
        demo,
        tmp_path / "out",
        objective=name,
        init="original",  # NPO has nothing to do on a checkpoint that was unlearned
        margin_logits=5.0,
        l1_weight=1e-7,
        batch_size=8,
        max_length=72,
        max_steps=15,
        learning_rate=1e-2 if "lora" in name else 1e-3,
        trainer={"lr_scheduler_type": "constant"},
    )
    losses = [event.loss for event in events_of(request) if isinstance(event, TrainStep)]
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.1

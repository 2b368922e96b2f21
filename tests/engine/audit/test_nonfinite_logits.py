"""Audits of models that are finite on disk, and run out of range once they compute."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quail_audit.core.errors import BadInputError
from quail_audit.engine.audit.run import audit
from quail_audit.schema.events.audit import KnowledgeMeasured, LayerMeasured, MetricScored
from quail_audit.schema.events.lines import Event
from tests.support.tiny_audits import request, state_of

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def wide(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world's models, computing the same by far larger numbers on the way: beyond those of a float16."""
    root = tmp_path_factory.mktemp("wide")
    shutil.copytree(world / "data", root / "data")
    for name in ("original", "blank"):
        shutil.copytree(world / name, root / name)
        tensors = load_file(root / name / "model.safetensors")
        tensors[UP], tensors[DOWN] = tensors[UP] * 2.0**24, tensors[DOWN] / 2.0**24
        save_file(tensors, root / name / "model.safetensors", metadata={"format": "pt"})
    return root


def test_a_model_that_overflows_in_the_computing_type_is_refused_with_its_layer(wide: Path) -> None:
    seen: list[Event] = []
    with pytest.raises(BadInputError, match=r"NaN or infinite, first the output of model\.layers\.0\.mlp") as refused:
        seen.extend(audit(request(wide, dtype="float16", metrics=("verbmem_forget",)), "run"))
    assert refused.value.where == str(wide / "original")
    assert "--dtype bfloat16" in refused.value.mend
    assert sum(isinstance(event, LayerMeasured) for event in seen) == 14, "what was measured before is kept"
    assert not any(isinstance(event, MetricScored) for event in seen)


def test_a_scheme_whose_scales_overflow_fails_and_the_others_go_on(wide: Path) -> None:
    """llama.cpp keeps scales in float16."""
    events = list(audit(request(wide, schemes=("gguf-q4_0", "nf4"), metrics=("privleak",)), "run"))
    report = state_of(iter(events)).report()
    failure = report.schemes["gguf-q4_0"].failure
    assert failure is not None
    assert (
        failure.message
        == "the model's logits are NaN or infinite, first the output of model.layers.0.mlp.up_proj (float32)"
    )
    assert failure.where == "original/gguf-q4_0"
    assert {e.scheme for e in events if isinstance(e, KnowledgeMeasured)} == {"nf4"}
    assert report.verdict is not None
    assert report.verdict.outcome != "pass"
    assert report.exit_code not in (0, None)
    assert torch.isfinite(
        torch.tensor([score.mean for score in report.schemes["nf4"].metrics["privleak"].values()])
    ).all()

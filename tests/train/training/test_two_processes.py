"""Two gloo processes on a CPU make the steps that one makes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quail_audit.runs.follow import replay
from tests.support.tiny_training import request_in

pytestmark = pytest.mark.slow


def launched(processes: int, request: Any, run: Path) -> None:
    arguments = [
        request.original, request.unlearned, "--data", request.data, "--out", request.out, "--run-dir", str(run),
        "--objective", request.objective, "--hinge", request.hinge, "--hinge-precision", request.hinge_precision,
        "--margin", "2", "--batch-size", "2", "--max-steps", "6", "--max-length", "96", "--learning-rate", "1e-3",
        "--device", "cpu", "--quiet", "--l1-weight", "1e-6",
    ]  # fmt: skip
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
        "-m", "quail_audit", "train", *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(("objective", "precision"), [("ga_gdr_l1_hinge", "full"), ("npo_klr_hinge", "quantized")])
def test_the_loss_curve_is_that_of_one_process(
    objective: str, precision: str, training_world: Path, tmp_path: Path
) -> None:
    """Samples of unlike lengths, so that a mean of the processes' means would be another number."""
    curves, terms = {}, {}
    for processes in (1, 2):
        request = request_in(
            training_world, tmp_path / f"out{processes}", objective=objective, hinge="centred",
            hinge_precision=precision,
        )  # fmt: skip
        run = tmp_path / f"run{processes}"
        launched(processes, request, run)
        steps = [event for event in replay(run) if event.type == "train_step"]
        assert [event.step for event in steps] == list(range(1, 7))
        curves[processes] = [event.loss for event in steps]
        terms[processes] = [list(event.terms.values()) for event in steps]
    assert curves[2] == pytest.approx(curves[1], abs=1e-4)
    for one, two in zip(terms[1], terms[2], strict=True):
        assert two == pytest.approx(one, abs=1e-4)
    one, two = (load_file(tmp_path / f"out{processes}" / "model.safetensors") for processes in (1, 2))
    moved = load_file(training_world / "unlearned" / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    assert (one[name] - two[name]).abs().max() < 0.1 * (one[name] - moved[name]).abs().max()
    assert torch.isfinite(two[name]).all()

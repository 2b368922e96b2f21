"""Choose the training that repairs a demo, and its command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quail_train.training.request import request_of

if TYPE_CHECKING:
    from quail_audit.schema.requests import AuditRequest, TrainRequest

REPAIRED = "repaired"  # beside the demo's own checkpoints
# Models so small learn at a high rate. MAX_LENGTH holds about one post.
EPOCHS, LEARNING_RATE, MAX_LENGTH = 16.0, 1e-3, 72


def repair_of(audited: AuditRequest, run: Path) -> tuple[TrainRequest, tuple[str, ...]]:
    """Return the training that repairs what an audit of the demo found, and the command that does the same.

    Args:
        audited: request of the demo's audit.
        run: run folder of that audit.
    """
    request = request_of(
        original=audited.original,
        unlearned=audited.unlearned,
        data=str(audited.data),
        out=str(Path(audited.unlearned).with_name(REPAIRED)),
        objective="repair",
        layers=("at-risk",),
        report=str(run),
        audit=True,
        epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
        max_length=MAX_LENGTH,
    )
    command = (
        "quail", "train", request.original, request.unlearned, "--data", request.data, "--out", request.out,
        "--objective", request.objective, "--layers", "at-risk", "--report", str(run), "--audit",
        "--epochs", f"{EPOCHS:g}", "--learning-rate", f"{LEARNING_RATE:g}", "--max-length", str(MAX_LENGTH),
    )  # fmt: skip
    return request, command

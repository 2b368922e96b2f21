"""The repair of a demo: the numbers of its training, and the training they make.

Not here: the demo itself (demo.py), whose files are kept as long as nothing that makes them has changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quail_train.training.request import request_of

if TYPE_CHECKING:
    from quail_audit.schema.requests import AuditRequest, TrainRequest

REPAIRED = "repaired"  # beside the demo's own checkpoints
# Models so small learn at a high rate; about one post to a sample.
EPOCHS, LEARNING_RATE, MAX_LENGTH = 16.0, 1e-3, 72


def repair_of(audited: AuditRequest, run: Path) -> tuple[TrainRequest, tuple[str, ...]]:
    """The training that repairs what an audit of the demo found, and the command that does the same.

    Args:
        audited: the audit of the demo.
        run: its folder.
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

"""Write the model card of a trained checkpoint: how it was made, and how it scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import quail_audit
from quail_audit.core.untrusted import printable
from quail_audit.core.writing import write_whole
from quail_audit.reports import wording
from quail_audit.reports.markdown import code
from quail_audit.schema.events.training import TrainEval, TrainingPlanned
from quail_audit.schema.requests import TrainRequest
from quail_train.output.card import NAME, NOT_AUDITED, card_page


def write_card(
    folder: Path,
    request: TrainRequest,
    planned: TrainingPlanned,
    command: tuple[str, ...],
    *,
    steps: int,
    evals: tuple[TrainEval, ...],
) -> None:
    """Write the card into the checkpoint's folder.

    Args:
        folder: folder of the checkpoint.
        request: request of the training.
        planned: what was trained.
        command: command that repeats it.
        steps: steps made.
        evals: scores of the checkpoint that the training began with, and of this one; empty without audits.
    """
    write_whole(folder / NAME, card(request, planned, command, steps=steps, evals=evals))


def card(
    request: TrainRequest,
    planned: TrainingPlanned,
    command: tuple[str, ...],
    *,
    steps: int,
    evals: tuple[TrainEval, ...],
) -> str:
    """Return the card as Markdown."""
    source = request.unlearned if request.init == "unlearned" else request.original
    return card_page(
        original=request.original,
        title=f"{code(source)}, retrained so that its forgetting survives quantization",
        intro=f"Made by Quail {quail_audit.__version__} (`quail train`). {len(planned.layers)} layers were trained "
        f"({wording.count_text(planned.weights)} weights); every other weight is that of {code(source)} to the last "
        "bit.",
        rows=_rows(request, planned, steps),
        sections={"Scores": _scores(evals)},
        command=command,
    )


def _rows(request: TrainRequest, planned: TrainingPlanned, steps: int) -> Mapping[str, str]:
    rows = {
        "original": code(request.original),
        "unlearned": code(request.unlearned),
        "training began with": f"the {request.init}",
        "data": f"{code(request.data)}: {planned.forget_samples} forget and {planned.retain_samples} retain samples",
        "objective": code(request.objective),
        "retain weight, alpha": f"{request.retain_weight:g}",
    }
    if planned.margin_logits is not None:
        rows |= {
            "hinge": f"{request.hinge}, on weights in {request.hinge_precision} precision",
            "hinge weight, lambda": f"{request.hinge_weight:g}",
            "margin, gamma": f"{planned.margin_logits:.4g}"
            + (" (half the quantization step)" if request.margin_logits is None else ""),
        }
    if "l1" in request.objective.split("_"):
        rows["L1 weight, mu"] = f"{request.l1_weight:g}"
    rows |= {
        "scheme": code(request.scheme),
        "layers": ", ".join(code(layer) for layer in request.layers),
        "steps": f"{steps} of {request.batch_size} forget samples, learning rate {request.learning_rate:g}",
        "seed": str(request.seed),
    }
    return rows


def _scores(evals: tuple[TrainEval, ...]) -> list[str]:
    if len(evals) < 2:
        return [NOT_AUDITED]
    before, after = evals[0], evals[-1]
    precisions = list(dict.fromkeys(precision for found in after.scores.values() for precision in found))
    lines = [
        "Before → after, measured by `quail audit`; full is full precision. ROUGE and AUC in percent, NLL in nats.",
        "",
        "| | " + " | ".join(precisions) + " |",
        "|---" * (len(precisions) + 1) + "|",
    ]
    for metric, found in after.scores.items():
        cells = [
            f"{wording.value_text(before.scores.get(metric, {}).get(precision), metric)} → "
            f"{wording.value_text(found.get(precision), metric)}"
            for precision in precisions
        ]
        lines.append(f"| {printable(wording.metric_title(metric))} | " + " | ".join(cells) + " |")
    return lines

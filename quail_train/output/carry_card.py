"""The model card of a carried checkpoint: what it was made of, how, by which command, and what became of the update."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import quail_audit
from quail_audit.core.untrusted import printable
from quail_audit.core.writing import write_whole
from quail_audit.reports import wording
from quail_audit.schema.events.cures import LayerCarried
from quail_audit.schema.requests import CarryRequest, CarryWay
from quail_train.output.training_card import NAME, code

WAYS: dict[CarryWay, str] = {
    "calibrated": "rounding with error compensation (GPTQ, arXiv 2210.17323) onto the scheme's own grid",
    "random": "stochastic rounding of the rounded original plus the update, unbiased",
    "feedback": "rounding the rounded original plus the update to nearest, each row's error carried on",
}


def write_card(
    folder: Path, request: CarryRequest, carried: tuple[LayerCarried, ...], command: tuple[str, ...]
) -> None:
    """Write the card into the checkpoint's folder."""
    write_whole(folder / NAME, card(request, carried, command))


def card(request: CarryRequest, carried: tuple[LayerCarried, ...], command: tuple[str, ...]) -> str:
    """The card as Markdown."""
    front = {"library_name": "transformers", "base_model": request.original, "tags": ["unlearning", "quail"]}
    weights = sum(layer.weights for layer in carried)
    mended = sum(layer.mended_blocks for layer in carried)
    blocks = sum(layer.blocks for layer in carried)
    made = (
        f"Made by Quail {quail_audit.__version__} (`quail carry`), without training. {len(carried)} layers "
        f"({wording.count_text(weights)} weights) lie on the {code(request.scheme)} grid, each block with the scale it "
        "had; rounding them to nearest gives the same weights again. Every other weight is that of "
        f"{code(request.unlearned)} to the last bit."
    )
    return "\n".join(
        [
            "---",
            *(f"{key}: {json.dumps(value)}" for key, value in front.items()),
            "---",
            "",
            f"# {code(request.unlearned)}, rounded so that its update is carried",
            "",
            made,
            "",
            "| | |",
            "|---|---|",
            f"| original | {code(request.original)} |",
            f"| unlearned | {code(request.unlearned)} |",
            f"| scheme | {code(request.scheme)} |",
            f"| way | {request.way}: {WAYS[request.way]} |",
            *([f"| calibrated on | {code(request.calibrate)} |"] if request.calibrate is not None else []),
            f"| layers | {', '.join(code(selector) for selector in request.layers)} |",
            f"| seed | {request.seed} |",
            f"| blocks that did not round as chosen, and hold the nearest rounding | {mended} of {blocks} |",
            "",
            "## The update in the deployed weights",
            "",
            "Survival is the share of the update that the rounded weights carry, noise how loud rounding is over it.",
            "",
            "| layer | survival before | survival | noise | codes moved |",
            "|---|---|---|---|---|",
            *(
                f"| {code(layer.layer)} | {wording.ratio_text(layer.survival_before)} | "
                f"{wording.ratio_text(layer.survival)} | {wording.ratio_text(layer.noise)} | "
                f"{100 * layer.moved:.1f} % |"
                for layer in carried
            ),
            "",
            "Not audited. Audit it before it is used: `quail audit ORIGINAL THIS --data DATA`.",
            "",
            "## The command",
            "",
            "```sh",
            printable(shlex.join(command)).replace("```", ""),
            "```",
            "",
        ]
    )

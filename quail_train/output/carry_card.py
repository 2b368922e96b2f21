"""Write the model card of a carried checkpoint: how it was made, and how much survives."""

from __future__ import annotations

from pathlib import Path

import quail_audit
from quail_audit.core.writing import write_whole
from quail_audit.reports import wording
from quail_audit.reports.markdown import code
from quail_audit.schema.events.cures import LayerCarried
from quail_audit.schema.requests import CarryRequest, CarryWay
from quail_train.output.card import NAME, NOT_AUDITED, card_page

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
    """Return the card as Markdown."""
    weights = sum(layer.weights for layer in carried)
    mended = sum(layer.mended_blocks for layer in carried)
    blocks = sum(layer.blocks for layer in carried)
    intro = (
        f"Made by Quail {quail_audit.__version__} (`quail carry`), without training. {len(carried)} layers "
        f"({wording.count_text(weights)} weights) lie on the {code(request.scheme)} grid, each block with the scale it "
        "had; rounding them to nearest gives the same weights again. Every other weight is that of "
        f"{code(request.unlearned)} to the last bit."
    )
    rows = {
        "original": code(request.original),
        "unlearned": code(request.unlearned),
        "scheme": code(request.scheme),
        "way": f"{request.way}: {WAYS[request.way]}",
    }
    if request.calibrate is not None:
        rows["calibrated on"] = code(request.calibrate)
    rows |= {
        "layers": ", ".join(code(selector) for selector in request.layers),
        "seed": str(request.seed),
        "blocks that did not round as chosen, and hold the nearest rounding": f"{mended} of {blocks}",
    }
    update = [
        "Survival is the share of the update that the rounded weights keep; noise is the rounding error against it.",
        "",
        "| layer | survival before | survival | noise | codes moved |",
        "|---|---|---|---|---|",
        *(
            f"| {code(layer.layer)} | {wording.ratio_text(layer.survival_before)} | "
            f"{wording.ratio_text(layer.survival)} | {wording.ratio_text(layer.noise)} | {100 * layer.moved:.1f} % |"
            for layer in carried
        ),
        "",
        NOT_AUDITED,
    ]
    return card_page(
        original=request.original,
        title=f"{code(request.unlearned)}, rounded so that its update is carried",
        intro=intro,
        rows=rows,
        sections={"The update in the deployed weights": update},
        command=command,
    )

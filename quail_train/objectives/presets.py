"""Define the objectives by name: their terms, and the settings that come with them.

A name is a forget term (ga, npo, simnpo; relabel, for classifiers; hinge if there is no other), a retain term (gdr,
klr) and additions: l1, hinge, sure (only salient rows are updated), lora. "repair" is hinge_gdr with settings of its
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import product
from typing import Literal

from quail_audit.core.errors import UsageError

ForgetTerm = Literal["ga", "npo", "simnpo", "relabel"]
RetainTerm = Literal["gdr", "klr"]


@dataclass(frozen=True)
class Preset:
    """The terms and settings of an objective.

    Attributes:
        forget: forget term; None: only the hinge makes the model forget.
        settings: values of TrainRequest that hold unless the user gives others.
    """

    name: str
    forget: ForgetTerm | None
    retain: RetainTerm | None
    l1: bool = False
    hinge: bool = False
    saliency: bool = False
    lora: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)


def _compose_presets() -> dict[str, Preset]:
    forget: tuple[ForgetTerm, ...] = ("ga", "npo", "simnpo", "relabel")
    retain: tuple[RetainTerm | None, ...] = (None, "gdr", "klr")
    ways = ("", "sure", "lora")
    found = {}
    for first, second, l1, hinge, way in product(forget, retain, (False, True), (False, True), ways):
        parts = (first, second, "l1" if l1 else "", "hinge" if hinge else "", way)
        name = "_".join(part for part in parts if part)
        found[name] = Preset(name, first, second, l1, hinge, way == "sure", way == "lora")
    for kept, l1, way in product(("gdr", "klr"), (False, True), ways):
        name = "_".join(part for part in ("hinge", kept, "l1" if l1 else "", way) if part)
        found[name] = Preset(name, None, kept, l1, True, way == "sure", way == "lora")  # type: ignore[arg-type]
    return found


# The repair's settings. They are not the paper's: half a quantization step is a margin of hundredths of a logit, which
# leaves most of the memory at 4 bits, and gradient ascent has no bound (docs/training.md, docs/results.md).
REPAIR: Mapping[str, object] = {
    "hinge": "centred",
    "hinge_precision": "quantized",
    "margin_logits": 5.0,
    "retain_weight": 2.0,
}
PRESETS: Mapping[str, Preset] = {
    **_compose_presets(),
    "sure": Preset("sure", "ga", "gdr", saliency=True),
    "lora": Preset("lora", "ga", "gdr", lora=True),
    "repair": Preset("repair", None, "gdr", hinge=True, settings=REPAIR),
}


def preset_named(name: str) -> Preset:
    """Return the preset of this name.

    Raises:
        UsageError: no preset has this name.
    """
    if name in PRESETS:
        return PRESETS[name]
    near = get_close_matches(name, PRESETS, n=1)
    did_you_mean = f"Did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"unknown objective {name!r}",
        where="--objective",
        mend=f"{did_you_mean}A name is a forget term (ga, npo, simnpo, relabel, hinge), a retain term (gdr, klr) and "
        "additions (l1, hinge, sure, lora), as in ga_gdr_l1_hinge; or one of repair, sure, lora",
    )

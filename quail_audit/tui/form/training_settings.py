"""What can be set of a training: each setting's words, and from what was typed to values or what is wrong with it.

Names and defaults are TrainRequest's; a setting left empty is not given, so the command's own default holds, or that of
the objective. Not here: the training, whose package need not be installed; nor how settings are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path, PurePath
from typing import Literal, get_args

from quail_audit.schema.requests import HingeForm, Precision, TrainRequest

SettingKind = Literal["choice", "positive", "not negative", "count", "margin", "text", "data", "output"]
AUTO = "auto"
PAPERS_OBJECTIVE = "ga_gdr_l1_hinge"  # of arXiv 2601.15538
SET_BY_OBJECTIVE = ("repair",)  # objectives that come with settings of their own

_TERMS: Mapping[str, str] = {
    "ga": "gradient ascent on the forget set, without bound",
    "npo": "negative preference optimization, a bounded ascent",
    "simnpo": "NPO without a reference model",
    "relabel": "another label, drawn at random, in the place of the true one: classifiers only",
    "hinge": "the hinge keeps logits a margin away from the original's",
    "gdr": "the loss on the retain set",
    "klr": "KL to the original on the retain set",
    "l1": "L1 of the update",
}


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: TrainRequest's field.
        label: at most 14 characters.
        help: one line on what it does.
        choices: of a "choice".
    """

    name: str
    label: str
    kind: SettingKind
    help: str
    choices: tuple[str, ...] = ()

    @property
    def default(self) -> str:
        """What holds where it is left empty, as it would be typed; empty where there is no such thing."""
        value = TrainRequest.model_fields[self.name].get_default()
        if self.kind == "margin":
            return AUTO
        return f"{value:g}" if isinstance(value, float) else "" if value in (None, ...) else str(value)


def objectives() -> tuple[str, ...]:
    """By name: what to take first, then every composition of a forget term, a retain term and what is added."""
    composed = (
        "_".join(part for part in parts if part)
        for parts in product(("ga", "npo", "simnpo", "relabel"), ("", "gdr", "klr"), ("", "l1"), ("", "hinge"))
    )
    first = (PAPERS_OBJECTIVE, "repair", "hinge_gdr", "hinge_klr")
    return tuple(dict.fromkeys((*first, *composed, "sure", "lora")))


def objective_explained(name: str) -> str:
    """An objective's parts in words."""
    match name:
        case "repair":
            return "what repairs best: the centred hinge at quantized precision with a wide margin, and the retain loss"
        case "sure":
            return "ga_gdr on the weights that matter most to the forget set (SURE)"
        case "lora":
            return "ga_gdr through low-rank adapters, merged at the end"
    words = " + ".join(_TERMS.get(part, part) for part in name.split("_"))
    return f"the paper's: {words}" if name == PAPERS_OBJECTIVE else words


SETTINGS: tuple[Setting, ...] = (
    Setting("objective", "Objective", "choice", "", objectives()),  # its help is objective_explained
    Setting("out", "Output folder", "output", "Where the retrained checkpoint goes; a folder that is new or empty"),
    Setting("data", "Data folder", "data", "The forget and retain texts, in MUSE layout or labelled"),
    Setting(
        "margin_logits",
        "Margin γ",  # noqa: RUF001 - the paper's letters
        "margin",
        "In logits. auto is half the quantization step, as in the paper: mostly too small to matter. 5 healed the demo",
    ),
    Setting("margin_scale", "Margin × ", "positive", "Multiplies the margin, whether given or measured"),
    Setting(
        "hinge",
        "Hinge",
        "choice",
        "How the distance to the original's logits is taken; centred cannot be met by shifting all logits alike",
        get_args(HingeForm),
    ),
    Setting(
        "hinge_precision",
        "Hinge sees",
        "choice",
        "quantized: the margin is kept by the model as it will be deployed; full: by the weights as they are",
        get_args(Precision),
    ),
    Setting("hinge_weight", "Hinge λ", "not negative", "How much the hinge weighs against the other terms"),
    Setting("retain_weight", "Retain α", "not negative", "How much the retain set weighs; more keeps more utility"),  # noqa: RUF001
    Setting(
        "l1_weight", "L1 μ", "not negative", "Weight of the update's L1 norm: more leaves more weights as they are"
    ),
    Setting(
        "init",
        "Begin with",
        "choice",
        "unlearned repairs the checkpoint there is; original unlearns anew",
        ("unlearned", "original"),
    ),
    Setting("epochs", "Epochs", "positive", "Passes over the forget set"),
    Setting("max_steps", "Steps at most", "count", "Ends after so many steps, whatever the epochs; empty: the epochs"),
    Setting("learning_rate", "Learning rate", "positive", "Of AdamW. Small updates are what rounding takes away"),
    Setting("batch_size", "Batch size", "count", "Forget samples a step; lower it where memory runs out"),
    Setting("scheme", "Scheme", "choice", "How the model will be deployed: at risk, margin and hinge are taken at it"),
    Setting("device", "Device", "text", "Where it trains: auto, cpu, cuda, cuda:1, mps"),
)


@dataclass(frozen=True)
class Chosen:
    """What was typed, read.

    Attributes:
        values: TrainRequest's fields, only those that were given; a folder also where something is wrong with it.
        problems: setting -> what is wrong with it, in words.
    """

    values: Mapping[str, object] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


def read_settings(typed: Mapping[str, str]) -> Chosen:
    """Read what was typed, by the name of its setting. Looks at the output and the data folder, writes nothing."""
    values: dict[str, object] = {}
    problems: dict[str, str] = {}
    for setting in SETTINGS:
        text = typed.get(setting.name, "").strip()
        value, problem = _read(setting, text)
        if problem:
            problems[setting.name] = problem
        if text and (value is not None or not problem):
            values[setting.name] = value
    return Chosen(values, problems)


def _read(setting: Setting, text: str) -> tuple[object, str]:
    """A value, and what is wrong with it."""
    match setting.kind:
        case "output":
            return _expanded(text), _problem_of_output(text)
        case "data":
            return _expanded(text), _problem_of_data(text)
        case "choice" | "text":
            return text, ""
    if not text:
        return None, ""
    if setting.kind == "margin" and text == AUTO:
        return None, ""
    return _read_number(setting.kind, text)


def _read_number(kind: SettingKind, text: str) -> tuple[object, str]:
    wanted = {
        "count": "a whole number, 1 or more",
        "not negative": "a number, 0 or more",
        "margin": "auto, or a number above 0",
    }.get(kind, "a number above 0")
    try:
        value = int(text) if kind == "count" else float(text)
    except ValueError:
        return None, f"must be {wanted}"
    is_fine = math.isfinite(value) and (value > 0 or (kind == "not negative" and value == 0))
    return (value, "") if is_fine else (None, f"must be {wanted}")


def _expanded(text: str) -> str:
    """~ as a shell would have it; no shell sees what is typed here."""
    try:
        return str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError:  # no such user
        return text


def _problem_of_output(text: str) -> str:
    if not text:
        return "is missing: name a folder for the result"
    try:
        folder = Path(_expanded(text))
        if folder.exists() and not folder.is_dir():
            return "is a file: name a folder"
        if folder.is_dir() and any(folder.iterdir()):
            return "exists and is not empty: name a new folder"
    except (OSError, ValueError) as error:
        return f"cannot be used: {getattr(error, 'strerror', None) or error}"
    return ""


def _problem_of_data(text: str) -> str:
    if not text:
        return "is missing: training needs the texts to forget and to keep"
    try:
        return "" if Path(_expanded(text)).exists() else "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be used: {getattr(error, 'strerror', None) or error}"


def suggested_output(unlearned: str) -> str:
    """A folder that is free, named after the checkpoint that is repaired: beside it where it is a local one."""
    local = Path(unlearned).is_dir()
    base = unlearned.rstrip("/") if local else PurePath(unlearned.partition("@")[0]).name
    names = (f"{base}-repaired{ending}" for ending in ("", *(f"-{number}" for number in range(2, 100))))
    return next((name for name in names if not _problem_of_output(name)), "")

"""Describe the settings of a training, and turn what was typed into values or problems.

Names and defaults are TrainRequest's. A setting left empty is not given, so the default of the command or of the
objective holds. The package of the training need not be installed.
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
SET_BY_OBJECTIVE = ("repair",)  # objectives that bring their own settings

_TERMS: Mapping[str, str] = {
    "ga": "gradient ascent on the forget set, without bound",
    "npo": "negative preference optimization, a bounded ascent",
    "simnpo": "NPO without a reference model",
    "relabel": "a random other label in place of the true one: classifiers only",
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
        choices: the values of a "choice".
    """

    name: str
    label: str
    kind: SettingKind
    help: str
    choices: tuple[str, ...] = ()

    @property
    def default(self) -> str:
        """The value that holds if it is left empty, as it would be typed; empty if there is none."""
        value = TrainRequest.model_fields[self.name].get_default()
        if self.kind == "margin":
            return AUTO
        return f"{value:g}" if isinstance(value, float) else "" if value in (None, ...) else str(value)


def objectives() -> tuple[str, ...]:
    """Return the names of objectives: the best first, then every sum of a forget term, a retain term and additions."""
    composed = (
        "_".join(part for part in parts if part)
        for parts in product(("ga", "npo", "simnpo", "relabel"), ("", "gdr", "klr"), ("", "l1"), ("", "hinge"))
    )
    first = (PAPERS_OBJECTIVE, "repair", "hinge_gdr", "hinge_klr")
    return tuple(dict.fromkeys((*first, *composed, "sure", "lora")))


def objective_help(name: str) -> str:
    """Describe an objective's parts."""
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
    Setting("objective", "Objective", "choice", "", objectives()),  # its help is objective_help
    Setting("out", "Output folder", "output", "Where the retrained checkpoint goes; a new or empty folder"),
    Setting("data", "Data folder", "data", "The forget and retain texts, in MUSE layout or labelled"),
    Setting(
        "margin_logits",
        "Margin γ",  # noqa: RUF001 - the paper's letters
        "margin",
        "In logits. auto is half the quantization step, as in the paper, and mostly too small. 5 repaired the demo",
    ),
    Setting("margin_scale", "Margin × ", "positive", "Multiplies the margin, whether given or measured"),
    Setting(
        "hinge",
        "Hinge",
        "choice",
        "How the distance to the original's logits is taken; shifting all logits alike cannot meet centred",
        get_args(HingeForm),
    ),
    Setting(
        "hinge_precision",
        "Hinge sees",
        "choice",
        "quantized: the model as deployed keeps the margin; full: the weights as they are do",
        get_args(Precision),
    ),
    Setting("hinge_weight", "Hinge λ", "not negative", "Weight of the hinge against the other terms"),
    Setting("retain_weight", "Retain α", "not negative", "Weight of the retain set; more keeps more utility"),  # noqa: RUF001
    Setting(
        "l1_weight", "L1 μ", "not negative", "Weight of the update's L1 norm: more leaves more weights as they are"
    ),
    Setting(
        "init",
        "Begin with",
        "choice",
        "unlearned repairs the existing checkpoint; original unlearns anew",
        ("unlearned", "original"),
    ),
    Setting("epochs", "Epochs", "positive", "Passes over the forget set"),
    Setting(
        "max_steps", "Steps at most", "count", "Ends after so many steps, whatever the epochs; empty: after the epochs"
    ),
    Setting("learning_rate", "Learning rate", "positive", "AdamW learning rate. Rounding removes small updates"),
    Setting("batch_size", "Batch size", "count", "Forget samples per step; lower it if memory runs out"),
    Setting(
        "scheme",
        "Scheme",
        "choice",
        "How the model will be deployed; sets the layers at risk, the margin and the hinge",
    ),
    Setting("device", "Device", "text", "Device to train on: auto, cpu, cuda, cuda:1, mps"),
)


@dataclass(frozen=True)
class Chosen:
    """The settings that were typed.

    Attributes:
        values: TrainRequest's fields that were given; a folder also if there is a problem with it.
        problems: setting -> what is wrong with it.
    """

    values: Mapping[str, object] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


def read_settings(typed: Mapping[str, str]) -> Chosen:
    """Read what was typed, by the name of its setting. Looks at the output and data folders, writes nothing."""
    values: dict[str, object] = {}
    problems: dict[str, str] = {}
    for setting in SETTINGS:
        text = typed.get(setting.name, "").strip()
        value, problem = _read_setting(setting, text)
        if problem:
            problems[setting.name] = problem
        if text and (value is not None or not problem):
            values[setting.name] = value
    return Chosen(values, problems)


def _read_setting(setting: Setting, text: str) -> tuple[object, str]:
    """Return a setting's value, and what is wrong with it."""
    match setting.kind:
        case "output":
            return _expand_user(text), _problem_of_output(text)
        case "data":
            return _expand_user(text), _problem_of_data(text)
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


def _expand_user(text: str) -> str:
    """Expand ~, as no shell sees what is typed here."""
    try:
        return str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError:  # no such user
        return text


def _problem_of_output(text: str) -> str:
    if not text:
        return "is missing: name a folder for the result"
    try:
        folder = Path(_expand_user(text))
        if folder.exists() and not folder.is_dir():
            return "is a file: name a folder"
        if folder.is_dir() and any(folder.iterdir()):
            return "exists and is not empty: name a new folder"
    except (OSError, ValueError) as error:
        return f"cannot be used: {getattr(error, 'strerror', None) or error}"
    return ""


def _problem_of_data(text: str) -> str:
    if not text:
        return "is missing: training needs the forget and retain texts"
    try:
        return "" if Path(_expand_user(text)).exists() else "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be used: {getattr(error, 'strerror', None) or error}"


def suggested_output(unlearned: str) -> str:
    """Return a free folder named after the checkpoint to repair: beside it if it is local."""
    local = Path(unlearned).is_dir()
    base = unlearned.rstrip("/") if local else PurePath(unlearned.partition("@")[0]).name
    names = (f"{base}-repaired{ending}" for ending in ("", *(f"-{number}" for number in range(2, 100))))
    return next((name for name in names if not _problem_of_output(name)), "")

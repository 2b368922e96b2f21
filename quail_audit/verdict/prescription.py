"""Prescribe the cures that fit an audit, with their cost and exact commands.

docs/cures.md explains which cure fits which state of a layer.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quail_audit.schema.figures import LayerStatistics
from quail_audit.schema.report import Report, SchemeReport

Cure = Literal["calibrated carry", "carry", "retraining", "recipe"]

# Seconds a weight of the layers that are treated, on 2 cores; a 135 M model's calibration on 48 short texts took 30 s.
CARRY_S_A_WEIGHT, CALIBRATED_S_A_WEIGHT = 5e-8, 3e-7
START_S = 10.0  # to import, open and write

# Schemes whose grid quail carry knows, by name, so that a face can tell without what rounds them.
_CARRIABLE = re.compile(r"(nf4|fp4)(-dq)?|int8|rtn-int.*|gguf-q.*")

# VerbMem of the forget and of the retain set, of 100, as docs/results.md has them: the demo and SmolLM2-135M at nf4.
MEASURED: dict[Cure, str] = {
    "calibrated carry": "at nf4 the demo forgets to 16 and keeps 100; SmolLM2-135M, erased, forgets to 4 and keeps 94, "
    "as nf4 leaves it to the original; drowned, it keeps 68 of the texts it is calibrated on, 22 without",
    "carry": "at nf4 the demo forgets to 15 or less and keeps 87 to 89 (five seeds); SmolLM2-135M forgets to 5 and "
    "keeps 67",
    "retraining": "at nf4 the demo forgets to 10 or less and keeps 100 (five seeds); SmolLM2-135M forgets to 0 and "
    "keeps 100, but no longer reads other text: give it a retain set as wide as its use",
    "recipe": "at nf4 the demo needs 21 of its 28 layers in 8 bits to leave 10 %: by design, every layer of it "
    "brings the memory back",
}


@dataclass(frozen=True)
class Prescription:
    """One cure for a run.

    Attributes:
        cure: which.
        why: why it fits the run, in a sentence.
        seconds: about how long it takes on 2 cores; None if that depends on the data.
        size_bytes: of the checkpoint that it writes; 0 if it writes none.
        measured: what it has been measured to do elsewhere.
        commands: to run, one after another.
    """

    cure: Cure
    why: str
    seconds: float | None
    size_bytes: int
    measured: str
    commands: tuple[tuple[str, ...], ...]

    @property
    def shown(self) -> tuple[str, ...]:
        """Return the commands as they are typed."""
        return tuple(shlex.join(command) for command in self.commands)


@dataclass(frozen=True)
class Advice:
    """The cures for a run.

    Attributes:
        scheme: under which it was judged.
        finding: what the run shows, in a sentence.
        prescriptions: the cures that fit, the best first; none if nothing is wrong, or nothing helps.
    """

    scheme: str
    finding: str
    prescriptions: tuple[Prescription, ...] = ()


def can_carry(scheme: str) -> bool:
    """Return whether quail carry knows a scheme's grid."""
    return _CARRIABLE.fullmatch(scheme) is not None


def prescribe(report: Report, run: str, scheme: str, *, is_attributed: bool = False) -> Advice:
    """Return the cures that fit an audit under one of its schemes.

    Args:
        report: of the audit.
        run: its folder, for the commands.
        scheme: one of report.schemes.
        is_attributed: whether quail attribute has been run on the audit under this scheme.
    """
    found = report.schemes[scheme]
    outcomes = {knowledge.outcome for knowledge in found.knowledge.values()}
    if "swapped" in outcomes:
        return Advice(scheme, "the unlearned checkpoint knows more than the original: the two seem to be swapped")
    if "not forgotten" in outcomes:
        return Advice(
            scheme,
            "the forget set is still known in full precision, so the unlearning failed and no repair of the rounding "
            "can help. Unlearn again, with more steps or a stronger objective",
        )
    at_risk = [layer for layer in found.layers if layer.at_risk]
    if "comes back" not in outcomes and (found.knowledge or not at_risk):
        undecided = "undecided" in outcomes
        return Advice(
            scheme,
            f"it is undecided if the memory comes back at {scheme}: audit with more samples"
            if undecided
            else f"nothing comes back at {scheme}: there is nothing to repair",
        )
    erased = [layer for layer in at_risk if layer.state == "erased"]
    drowned = [layer for layer in at_risk if layer.state == "drowned"]
    cures = [
        *(_carry_cures(report, run, scheme, erased, drowned) if can_carry(scheme) else ()),
        *_retraining_cures(report, run, scheme, at_risk),
        *_recipe_cures(report, run, scheme, is_attributed),
    ]
    return Advice(scheme, _finding(scheme, found, erased, drowned), tuple(cures))


def _finding(
    scheme: str, found: SchemeReport, erased: Sequence[LayerStatistics], drowned: Sequence[LayerStatistics]
) -> str:
    changed = sum(layer.state not in ("untouched", None) for layer in found.layers)
    deciding = [knowledge for knowledge in found.knowledge.values() if knowledge.outcome != "reported only"]
    worst = max((knowledge.known.percent for knowledge in deciding if knowledge.known is not None), default=None)
    back = "" if worst is None else f"{worst:.0f} % of the memory is known at {scheme}; "
    return f"{back}{changed} layers changed: rounding erased {len(erased)} and drowned {len(drowned)}"


def _carry_cures(
    report: Report,
    run: str,
    scheme: str,
    erased: Sequence[LayerStatistics],
    drowned: Sequence[LayerStatistics],
) -> list[Prescription]:
    request = report.request
    command = ("quail", "carry", request.original, request.unlearned, "--scheme", scheme)
    size = report.checkpoints["unlearned"].size_bytes if "unlearned" in report.checkpoints else 0
    cures = []
    treated = [*erased, *drowned]
    weights = sum(layer.weights for layer in treated)
    if treated and request.data is not None and _has_retain_texts(report):
        layers = ("--layers", "at-risk", "--report", run) if drowned else ()
        states = "erased and drowned" if erased and drowned else "erased" if erased else "drowned"
        cures.append(
            Prescription(
                "calibrated carry",
                f"{len(treated)} layers are {states}: calibrated rounding on the retain texts keeps the update in "
                "their outputs",
                START_S + weights * CALIBRATED_S_A_WEIGHT,
                size,
                MEASURED["calibrated carry"],
                (
                    (
                        *command,
                        "--out",
                        _folder_beside(request.unlearned, "carried"),
                        "--calibration",
                        request.data,
                        *layers,
                    ),
                ),
            )
        )
    if erased:
        cures.append(
            Prescription(
                "carry",
                f"{len(erased)} layers are erased: needs no data, but costs more retained knowledge in larger models",
                START_S + sum(layer.weights for layer in erased) * CARRY_S_A_WEIGHT,
                size,
                MEASURED["carry"],
                ((*command, "--out", _folder_beside(request.unlearned, "carried")),),
            )
        )
    return cures


def _retraining_cures(report: Report, run: str, scheme: str, at_risk: Sequence[LayerStatistics]) -> list[Prescription]:
    request = report.request
    if request.data is None or not at_risk or not _has_retain_texts(report):
        return []
    command = (
        *("quail", "train", request.original, request.unlearned, "--data", request.data),
        *("--out", _folder_beside(request.unlearned, "repaired"), "--objective", "repair", "--scheme", scheme),
        *("--layers", "at-risk", "--report", run, "--audit"),
    )
    return [
        Prescription(
            "retraining",
            f"{len(at_risk)} layers are at risk, whatever their state: the hinge trains the rounded model itself",
            None,
            report.checkpoints["unlearned"].size_bytes if "unlearned" in report.checkpoints else 0,
            MEASURED["retraining"],
            (command,),
        )
    ]


def _recipe_cures(report: Report, run: str, scheme: str, is_attributed: bool) -> list[Prescription]:
    if report.request.data is None:
        return []
    attribution, recipe = (("quail", name, run, "--scheme", scheme) for name in ("attribute", "recipe"))
    return [
        Prescription(
            "recipe",
            "leaves the weights alone: worth it if a few layers bring most of the memory back, which "
            + ("quail attribute has shown" if is_attributed else "the first command shows"),
            None,
            0,
            MEASURED["recipe"],
            (recipe,) if is_attributed else (attribution, recipe),
        )
    ]


def _has_retain_texts(report: Report) -> bool:
    """Return whether the data has retain texts, which calibration and retraining need: then the audit measured some."""
    return any(metric.endswith("_retain") and count > 0 for metric, count in report.samples.items())


def _folder_beside(checkpoint: str, what: str) -> str:
    """Return a folder beside the checkpoint's, or in the working folder for one on a hub."""
    path = Path(checkpoint)
    name = f"{path.name.partition('@')[0]}-{what}"
    return str(path.with_name(name)) if path.exists() else name

"""Hold a reader's choices for an audit: from the settings, to a request, and back."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.schema.command_line import audit_arguments
from quail_audit.schema.policy import NO_FILE
from quail_audit.schema.preflight import (
    Answer,
    CheckpointFound,
    DataFound,
    NotYetKnown,
    PairFound,
    Problem,
    SchemesFound,
)
from quail_audit.schema.requests import AuditRequest
from quail_audit.tui.settings import Settings
from quail_audit.verdict.policy_file import PYPROJECT, find_policy

# The folders of `quail demo` and `quail demo --task classification`.
DEMOS = (Path("quail-demo"), Path("quail-demo-classifier"))
TITLES: Mapping[str, str] = {
    "original": "Original",
    "unlearned": "Unlearned",
    "retrain": "Reference",
    "data": "Data",
    "policy": "Policy",
}
MOST_ITEMS = 10**9
Found = Mapping[str, Answer | None]  # topic -> the answer; None while it is checked; no key: nothing to check


@dataclass(frozen=True)
class Choices:
    """The contents of the start screen's form. Paths are as typed, empty if nothing is chosen."""

    original: str = ""
    unlearned: str = ""
    retrain: str = ""
    data: str = ""
    policy: str = ""
    schemes: tuple[str, ...] = ("nf4",)
    device: str = "auto"
    prompt_format: str = "auto"
    population: str = ""  # as typed: items to forget in all

    def request(self) -> AuditRequest | None:
        """Return what to measure; None if something is not Unicode text and cannot be written down."""
        if not all(is_text(getattr(self, topic)) for topic in TITLES) or self.population_problem:
            return None
        return AuditRequest(
            original=usable(self.original),
            unlearned=usable(self.unlearned),
            retrain=usable(self.retrain) or None,
            data=usable(self.data) or None,
            policy=named_policy(self.policy),
            schemes=self.schemes,
            device=self.device,
            prompt_format=self.prompt_format,  # type: ignore[arg-type]  # one that was offered
            population=int(self.population) if self.population.strip() else None,
        )

    @property
    def population_problem(self) -> str:
        """Say why the number of items is none; empty if it is one, or is not given."""
        typed = self.population.strip()
        if not typed or (typed.isascii() and typed.isdigit() and 1 <= int(typed) <= MOST_ITEMS):
            return ""
        return f"items in all is a number from 1 to {MOST_ITEMS:,}, or empty if there may be any number"

    def command_line(self) -> str:
        """Return the command of the same audit, with capitals for what is not chosen yet.

        Empty if there is no request.
        """
        request = self.request()
        if request is None:
            return ""
        named = request.model_copy(
            update={"original": request.original or "ORIGINAL", "unlearned": request.unlearned or "UNLEARNED"}
        )
        return shlex.join(["quail", *audit_arguments(AuditRequest.model_validate(named.model_dump()))])

    def fields_to_save(self) -> dict[str, object]:
        """Return the fields to save. Paths become absolute, to be valid wherever the app is opened next.

        The working folder's own policy is left out: nobody chose it for another folder. So is what belongs to the data
        alone: how its questions are asked, and how many items there are in all.
        """
        policy, own = named_policy(self.policy) or "", policy_here()
        kept = replace(self, policy="" if own and Path(policy) == Path(own) else policy)
        return {
            **{topic: _absolute_path(usable(getattr(kept, topic))) for topic in TITLES},
            "schemes": self.schemes,
            "device": self.device,
        }


def first_choices(settings: Settings) -> Choices:
    """Return the choices of last time, or those of the first demo that was built here.

    The policy is the working folder's own, as `quail audit` reads it; last time's is used only if there is none.
    A policy belongs to what is released from a folder: one remembered from elsewhere could loosen its limits.
    """
    remembered = Choices(
        **{topic: _path_from_here(getattr(settings, topic)) for topic in TITLES},
        schemes=settings.schemes,
        device=settings.device,
    )
    remembered = replace(remembered, policy=policy_here() or remembered.policy)
    if remembered.original or remembered.unlearned:
        return remembered
    built = [
        demo for demo in DEMOS if all((demo / side / "config.json").is_file() for side in ("original", "unlearned"))
    ]
    if not built:
        return remembered
    return replace(
        remembered,
        original=str(built[0] / "original"),
        unlearned=str(built[0] / "unlearned"),
        retrain=str(built[0] / "retrain") if (built[0] / "retrain").is_dir() else "",
        data=str(built[0] / "data") if (built[0] / "data").is_dir() else "",
    )


def policy_here() -> str:
    """Return the name of the working folder's own policy, or an empty text.

    An unreadable pyproject.toml is named too, so that its problem is seen.
    """
    try:
        return find_policy(Path()) or ""
    except BadInputError:
        return PYPROJECT


def named_policy(typed: str) -> str | None:
    """Return the policy file that was typed; None for the defaults."""
    file = usable(typed)
    return file if file not in ("", NO_FILE) else None


def usable(text: str) -> str:
    """Return a typed path or id as a command takes it: stripped, ~ expanded, never read as an option."""
    text = text.strip()
    if text.startswith("~"):
        text = os.path.expanduser(text)  # noqa: PTH111 - Path raises where there is no such home
    return f"./{text}" if text.startswith("-") else text


def _absolute_path(text: str) -> str:
    """Return the full path if it exists; a hub's id as it is."""
    try:
        return str(Path(text).absolute()) if text and Path(text).exists() else text
    except (OSError, ValueError):
        return text


def _path_from_here(text: str) -> str:
    """Return a remembered path, relative if it is below the working folder."""
    here = f"{Path.cwd()}{os.sep}"
    return text.removeprefix(here) if text.startswith(here) and text != here else text


@dataclass(frozen=True)
class Readiness:
    """If the audit can start.

    Attributes:
        line: the answer.
        blocked_by: the choice that must be changed first: a topic or "schemes"; empty if nothing is in the way.
        pending: something is still being checked, or cannot be checked before the audit.
    """

    line: str
    blocked_by: str = ""
    pending: bool = False


def readiness(choices: Choices, found: Found) -> Readiness:
    """Return the first thing in the way of starting, or what will be measured as far as it is known."""
    if not choices.original.strip():
        return Readiness("choose the original: a folder, or a Hugging Face id (org/name)", "original")
    if not choices.unlearned.strip():
        return Readiness("choose the unlearned checkpoint: a folder, or a Hugging Face id", "unlearned")
    for topic, title in TITLES.items():
        if isinstance(found.get(topic), Problem):
            return Readiness(f"{title} cannot be used as it is; press F2 to see why", topic)
    if not choices.schemes:
        return Readiness("choose at least one scheme", "schemes")
    if choices.population_problem:
        return Readiness(choices.population_problem, "population")
    if why := _scheme_problem(choices, found.get("schemes")):
        return Readiness(why, "schemes")
    pair = found.get("pair")
    if isinstance(pair, Problem):
        return Readiness(
            f"they do not fit: {pair.message}", "retrain" if _is_about_retrain(pair, choices) else "unlearned"
        )
    if any(topic in found and found[topic] is None for topic in (*TITLES, "pair")):
        return Readiness("checking; the audit can already be started", pending=True)
    if usable(choices.original) == usable(choices.unlearned):
        return Readiness("original and unlearned are the same checkpoint, so nothing will have changed", pending=True)
    if any(isinstance(answer, NotYetKnown) for answer in found.values()):
        return Readiness("ready; what must be downloaded is checked when the audit starts", pending=True)
    return Readiness(f"ready: {_plan_line(choices, pair, found.get('data'))}")


def _scheme_problem(choices: Choices, answer: Answer | None) -> str:
    """Return what the first chosen scheme lacks; empty if none does or if that is not known yet."""
    for scheme in answer.schemes if isinstance(answer, SchemesFound) else ():
        if scheme.name in choices.schemes and scheme.missing:
            return f"{scheme.name} cannot run here yet: {scheme.missing}"
        if scheme.name in choices.schemes and scheme.is_calibrated and not choices.data.strip():
            return f"{scheme.name} is calibrated on texts: choose data, or leave the scheme out"
    return ""


def _is_about_retrain(problem: Problem, choices: Choices) -> bool:
    return bool(choices.retrain) and problem.where.startswith(usable(choices.retrain))


def _plan_line(choices: Choices, pair: Answer | None, data: Answer | None) -> str:
    parts = []
    if isinstance(pair, PairFound):
        schemes = len(choices.schemes)
        parts.append(f"{pair.layers} layers" + (f" under {schemes} schemes" if schemes > 1 else ""))
    if isinstance(data, DataFound):
        arms = 2 + bool(choices.retrain.strip()) + 2 * len(choices.schemes)
        parts.append(f"{sum(data.samples.values())} samples on {arms} arms")
    elif not choices.data.strip():
        parts.append("weights only, as no data was given")
    return ", ".join(parts)


def is_whole(answer: Answer | None) -> bool:
    """Return whether it is a checkpoint that can be checked without another one."""
    return isinstance(answer, CheckpointFound) and answer.facts.format != "LoRA adapter"


def is_text(value: str) -> bool:
    """Return whether it is Unicode text; a picked folder's name may be any bytes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def not_text_problem(value: str) -> Problem:
    """Return the problem of a path that no command line or settings file can hold."""
    return Problem(message=f"{printable(value, limit=60)} is not Unicode text and cannot be named")

"""Put into words what was found about a choice: a line below its field, and rows.

Every text comes out printable, as plain text without markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from quail_audit.core.untrusted import printable
from quail_audit.reports import wording
from quail_audit.schema.preflight import (
    Answer,
    CheckpointFound,
    DataFound,
    DevicesFound,
    NotYetKnown,
    PairFound,
    PolicyFound,
    Problem,
    SchemesFound,
)
from quail_audit.tui.words.policy import (
    contents_in_a_line,
    limits_in_a_line,
    rows_of_limits,
    rows_of_required,
    rows_of_rules,
    rows_of_waivers,
)
from quail_audit.verdict.metric_kinds import scores_truth

Tone = Literal["good", "bad", "open"]
MARKS: Mapping[Tone, str] = {"good": "✓", "bad": "✗", "open": "…"}
COMMIT_CHARACTERS = 7


class Finding(NamedTuple):
    """A mark, which means the same as its colour, and a line."""

    tone: Tone
    line: str

    @property
    def mark(self) -> str:
        return MARKS[self.tone]


LOOKING = Finding("open", "looking")


def finding(answer: Answer | None) -> Finding:
    """Return what was found, in a line; for None, that it is being checked."""
    match answer:
        case None:
            return LOOKING
        case Problem():
            return Finding("bad", _sentences(answer.message, answer.mend))
        case NotYetKnown():
            return Finding("open", printable(answer.message))
        case CheckpointFound():
            facts = _facts(answer) | {
                "parameters": f"{wording.count_text(answer.facts.parameters)} parameters",
                "layers": f"{answer.layers} layers",
            }
            return Finding("good", " · ".join([*facts.values(), *map(_note_line, answer.notes)]))
        case PairFound():
            parts = [
                f"{answer.layers} layers",
                f"{wording.count_text(answer.weights)} weights",
                *map(_note_line, answer.notes),
            ]
            return Finding("good", " · ".join(parts))
        case DataFound():
            return Finding("good", " · ".join(_data_parts(answer)))
        case PolicyFound():
            words = contents_in_a_line(answer.policy, answer.day), limits_in_a_line(answer.policy.limits)
            return Finding("good", " · ".join(part for part in words if part))
        case SchemesFound():
            return Finding("good", ", ".join(printable(scheme.name) for scheme in answer.schemes))
        case DevicesFound():
            return Finding("good", ", ".join(printable(device.name) for device in answer.devices))


def details(answer: Answer | None) -> list[tuple[str, str]]:
    """Return everything that was found, as (what, value) rows; a row without a what is a sentence."""
    match answer:
        case Problem():
            rows = [("", f"{MARKS['bad']} {printable(answer.message)}"), ("", printable(answer.mend))]
            return [*(row for row in rows if row[1]), *([("where", printable(answer.where))] if answer.where else [])]
        case CheckpointFound():
            return [*_facts(answer).items(), *_notes(answer.notes)]
        case DataFound():
            rows = [
                (wording.metric_title(metric), f"{answer.samples[metric]} samples")
                if metric in answer.samples
                else (wording.metric_title(metric), f"skipped: {answer.skipped[metric]}")
                for metrics in _group_by_title(answer).values()
                for metric in metrics
            ]
            return [*((printable(what), printable(value)) for what, value in rows), *_notes(answer.notes)]
        case PolicyFound():
            policy = answer.policy
            return [
                *rows_of_limits(policy.limits),
                *rows_of_required(policy),
                *rows_of_rules(policy),
                *((f"waiver: {rule}", words) for rule, words in rows_of_waivers(policy, answer.day)),
            ]
        case _:
            found = finding(answer)
            return [("", f"{found.mark} {found.line}")]


def _facts(found: CheckpointFound) -> dict[str, str]:
    facts = found.facts
    shown = {
        "architecture": facts.architecture or "unknown architecture",
        "parameters": wording.count_text(facts.parameters),
        "type": ", ".join(facts.dtypes),
        "layers": str(found.layers),
        "size": wording.byte_size(facts.size_bytes),
        "format": facts.format,
    }
    if found.cached:
        shown["from"] = (
            f"the local cache, commit {(facts.revision or '')[:COMMIT_CHARACTERS]}; the hub may have a newer one"
        )
    return {what: printable(value) for what, value in shown.items()}


def _data_parts(found: DataFound) -> Iterable[str]:
    """Yield "5 of 7 metrics", "VerbMem 24/24" (forget/retain), "PrivLeak 48".

    Scores of the same items and texts say nothing more about the data.
    """
    known = len(found.samples) + len(found.skipped)
    yield f"{len(found.samples)} metrics" if not found.skipped else f"{len(found.samples)} of {known} metrics"
    for title, metrics in _group_by_title(found).items():
        metrics = [m for m in metrics if not scores_truth(m) and not m.startswith("membership_")]
        if not metrics:
            continue
        counts = (str(found.samples.get(metric, wording.UNKNOWN)) for metric in metrics)
        yield f"{printable(title)} {'/'.join(counts)}"
    yield from map(_note_line, found.notes)


def _group_by_title(found: DataFound) -> dict[str, list[str]]:
    """Group metrics: VerbMem -> its forget and retain metrics. The cheap ones, which matter least, come last."""
    by_title: dict[str, list[str]] = {}
    for metric in (*found.samples, *found.skipped):
        by_title.setdefault(wording.metric_title(metric).partition(",")[0], []).append(metric)
    return {title: sorted(by_title[title]) for title in reversed(by_title)}


def _notes(notes: Iterable[str]) -> list[tuple[str, str]]:
    return [("", _note_line(note)) for note in notes]


def _note_line(note: str) -> str:
    return f"! {printable(note)}"


def _sentences(*parts: str) -> str:
    return ". ".join(printable(part).rstrip(".") for part in parts if part)

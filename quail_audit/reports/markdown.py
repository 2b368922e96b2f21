"""Write a report in Markdown, for a pull request's comment or a CI step's summary.

The data is report.json, and an attribution if there is one; there are no samples. Everything from outside stands in a
code span or with every mark escaped, so that it neither formats the text nor mentions anybody.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from quail_audit.core.untrusted import printable
from quail_audit.reports import findings, wording
from quail_audit.reports.reason_codes import said_reasons, scheme_reasons
from quail_audit.reports.rule_rows import HEADINGS, policy_title, rule_row, shown_rules
from quail_audit.runs.attributions import BroughtBack
from quail_audit.schema.command_line import audit_arguments
from quail_audit.schema.report import Report, SchemeReport, arms_in_order, badness
from quail_audit.verdict.comparison import was_measured_by_recovery
from quail_audit.verdict.standings import SchemeStanding, riskiness, scheme_standings

MOST_CHARACTERS = 60_000  # a comment on GitHub holds 65,536
WORST_LAYERS_SHOWN = 10

_MARKS = re.compile(r"([\\`*_{}\[\]()#+\-!|<>~&$])")


def render(report: Report, attributed: Mapping[str, BroughtBack] | None = None) -> str:
    """Return the report. Details of the best schemes are left out if they would not fit a comment.

    Args:
        report: an audit's report.
        attributed: scheme -> layer -> what rounding it alone brings back.
    """
    text = "\n".join(_main(report)) + "\n"
    rules = "\n".join(_rules(report))
    if rules and len(text) + len(rules) <= MOST_CHARACTERS:
        text += f"\n{rules}\n"
    left_out = 0
    for each in sorted(scheme_standings(report), key=riskiness):
        part = "\n".join(_details(report, each.scheme, (attributed or {}).get(each.scheme)))
        if not part:
            continue
        if len(text) + len(part) > MOST_CHARACTERS:
            left_out += 1
        else:
            text += f"\n{part}\n"
    if left_out:
        text += f"\nThe figures of {left_out} more formats are in report.json.\n"
    return text + "\n" + "\n".join(_footnotes(report)) + "\n"


def code(text: str) -> str:
    """Return any text as a code span, which may also stand in a table."""
    shown = printable(text).replace("|", "\\|")
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * (longest + 1)
    edge = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{edge}{shown}{edge}{fence}" if shown else ""


def plain(text: str) -> str:
    """Return any text without formatting or markup, and so that it mentions nobody."""
    return _MARKS.sub(r"\\\1", printable(text)).replace("@", "@\u2060").replace("://", ":\u2060//")


def _main(report: Report) -> Iterator[str]:
    pair = f"{code(report.request.original)} → {code(report.request.unlearned)}"
    mark = (
        wording.OUTCOME_MARKS[report.verdict.outcome]
        if report.verdict is not None
        else wording.unjudged_mark(report.exit_code)
    )
    said = findings.headline(report) if report.verdict is not None else ""
    yield f"## Quail: {mark}" + (f" · {plain(said)}" if said else "")
    if share := wording.measured_share_line(report):
        yield f"\n{plain(share)}"
    yield f"\n{pair}\n"
    found = scheme_standings(report)
    if report.failure is not None:
        yield f"No verdict: {plain(wording.failure_line(report.failure))}\n"
    yield from (f"- {plain(reason.message)}" for reason in said_reasons(report))
    if report.verdict is not None and len(found) > 1:
        held = wording.holds_at_line(found, weights_only=report.request.data is None)
        if held:
            yield f"\n**{plain(held)}**"
    yield from (f"- {plain(line)}" for line in wording.difference_lines(report))
    yield ""
    headings = ("format", "verdict", "back", "worst known [95 %]", "utility kept", "layers at risk")
    yield from _table(headings, "llrrrr", (_row(each, report.schemes[each.scheme]) for each in found))
    for each in found:
        if each.failure is not None:
            yield f"\n{code(each.scheme)}: {plain(wording.failure_line(each.failure))}"


def _row(each: SchemeStanding, measured: SchemeReport) -> Sequence[str]:
    return (
        code(each.scheme),
        wording.STANDING_MARKS[each.standing],
        wording.back_text(each.knowledge) or wording.UNKNOWN,
        wording.worst_knowledge(each),
        findings.utility_kept(each, measured),
        wording.layers_at_risk(each),
    )


def _rules(report: Report) -> Iterator[str]:
    if found := shown_rules(report):
        yield f"**Rules**: {code(policy_title(report))}\n"
        yield from _table(HEADINGS, "lllll", (tuple(map(plain, rule_row(each).cells)) for each in found))


def _details(report: Report, scheme: str, brought: BroughtBack | None) -> Iterator[str]:
    measured = report.schemes[scheme]
    reasons = [f"- {plain(reason.message)}" for reason in scheme_reasons(report, scheme)]
    if measured.metrics:
        yield from _open_details(f"Forgetting at {scheme}")
        yield from (*reasons, *([""] if reasons else []))
        yield from _findings(measured)
        arms = arms_in_order({arm for scores in measured.metrics.values() for arm in scores}, scheme)
        rows = (
            (
                plain(findings.full_title(metric)),
                *(wording.mean_with_interval(scores.get(arm), metric) for arm in arms),
                str(max(score.samples for score in scores.values())),
            )
            for metric in findings.metrics_in_order(measured.metrics)
            for scores in [measured.metrics[metric]]
        )
        yield from _table(("score", *map(code, arms), "n"), "l" + "r" * (len(arms) + 1), rows)
        yield "\n</details>"
    if measured.layers:
        worst = sorted(measured.layers, key=badness)[:WORST_LAYERS_SHOWN]
        yield from _open_details(f"Worst of {len(measured.layers)} layers at {scheme}")
        yield from _table(
            ("layer", "overlap", "survival", "noise", *(("brings back",) if brought else ()), "state"),
            "lrrrrl" if brought else "lrrrl",
            (
                (
                    code(layer.name),
                    wording.share_text(layer.overlap),
                    wording.ratio_text(layer.survival),
                    wording.ratio_text(layer.noise),
                    *((wording.brought_back_text(brought.get(layer.name)),) if brought else ()),
                    wording.layer_state(layer),
                )
                for layer in worst
            ),
        )
        yield "\n</details>"


def _findings(measured: SchemeReport) -> Iterator[str]:
    """Yield what is known, what is kept, and how far membership can be told again."""
    for headings, rows in (
        (findings.KNOWLEDGE_HEADINGS, [row.cells for row in findings.knowledge_rows(measured)]),
        (findings.UTILITY_HEADINGS, findings.utility_rows(measured)),
        (findings.MEMBERSHIP_HEADINGS, findings.membership_rows(measured)),
    ):
        if rows:
            sides = "".join("l" if heading in (headings[0], "outcome") else "r" for heading in headings)
            yield from _table(headings, sides, (tuple(map(plain, row)) for row in rows))
            yield ""
    if findings.has_untold_residual(measured):
        yield f"{plain(findings.NOT_TOLD_NOTE)}\n"


def _open_details(title: str) -> Iterator[str]:
    escaped = printable(title).replace("&", "&amp;").replace("<", "&lt;")
    yield f"<details><summary>{escaped}</summary>\n"


def _table(headings: Sequence[str], sides: str, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'|'.join('---:' if side == 'r' else '---' for side in sides)}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _footnotes(report: Report) -> Iterator[str]:
    if was_measured_by_recovery(report):
        yield f"- {plain(findings.OLDER_NOTE)}"
    if asked := findings.population_line(report):
        yield f"- {plain(asked)}"
    for metric, why in report.skipped.items():
        yield f"- not measured: {plain(findings.full_title(metric))} ({plain(why)})"
    yield from (f"- {plain(note)}" for note in (*report.notes, *wording.integrity_lines(report)))
    yield f"\nRun {code(report.run_id)} of Quail {plain(report.quail_version)}; to repeat it:"
    yield f"\n{code(shlex.join(['quail', *audit_arguments(report.request)]))}"

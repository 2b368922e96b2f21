"""Write a report as one HTML file that needs no network and no other file.

The data is report.json, the run's events for the samples, and an attribution if there is one. Everything from outside
is escaped where it enters the page, and the page's own policy allows no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from quail_audit.core.untrusted import printable
from quail_audit.reports import findings, wording
from quail_audit.reports.reason_codes import said_reasons, scheme_reasons
from quail_audit.reports.rule_rows import HEADINGS, policy_title, rule_row, shown_rules
from quail_audit.reports.shared_words import shared_words
from quail_audit.reports.worst_samples import WorstSample
from quail_audit.runs.attributions import BroughtBack
from quail_audit.schema.command_line import audit_arguments
from quail_audit.schema.figures import Knowledge, LayerStatistics
from quail_audit.schema.report import Report, SchemeReport, arms_in_order, badness
from quail_audit.verdict.comparison import was_measured_by_recovery
from quail_audit.verdict.standings import SchemeStanding, riskiness, scheme_standings, worst

SAMPLES_SHOWN = 8
_STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_SCRIPT = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
)

_LAYER_COLUMNS = ("layer", "weights", "identical", "overlap", "survival", "noise", "update / bucket", "state")

_ABOUT_WEIGHTS = """Both checkpoints are rounded as they will be deployed. <strong>Overlap</strong> is the share of
weights that get the same code in both; <strong>survival</strong> is how much of the update the rounded model
carries, 1 all of it and 0 none; <strong>noise</strong> is the size of the rounding error beside the
update. A layer is untouched, carried, drowned or erased; the last two are at risk."""
_ABOUT_ATTRIBUTION = """<strong>Brings back</strong> is the share of the drop in forget loss that rounding this layer
alone causes, with all others in full precision. Shares of several layers need not add up; a layer without one lies in a
block or a role that brings little back, and was not examined."""
_ABOUT_MISSING_DATA = """No data was given, so only the weights were measured: it was not tested
whether a forgotten answer comes back."""
_ABOUT_KNOWLEDGE = """An item, a text or a question with its answer, is <strong>back</strong> if its score on the
deployed model is nearer to the original's than to the floor, the score of a model that never saw the data or, without
one, of the unlearned model in full precision. <strong>Known</strong> is the share that the deployed model has of what
there was to forget: 0 % is the floor, 100 % the original. The same <strong>in full precision</strong> is what was not
forgotten; the difference <strong>came back</strong> through rounding. <strong>Format leaves</strong> is the original's
own share once it is rounded. Ranges are the shares that the items do not exclude, at 95 %. <strong>Utility</strong> is
the deployed model's score on what was to stay, in percent of the original's at the same format. Each item is asked in
more than one way, and its highest score counts."""
_ABOUT_LIMITS = """The audit covers these samples, answered by greedy decoding, at these formats. Other prompts,
other formats, fine-tuning and attacks on the model were not tested."""


def render(
    report: Report, samples: Sequence[WorstSample], attributed: Mapping[str, BroughtBack] | None = None
) -> Iterator[str]:
    """Yield the page in pieces.

    Args:
        report: an audit's report.
        samples: the samples that came back most at the worst scheme.
        attributed: scheme -> layer -> what rounding it alone brings back.
    """
    title = text(f"Quail: {_names(report)}")
    yield f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>
{_STYLE}</style>
</head>
<body>
"""
    found = scheme_standings(report)
    yield from _header(report, found)
    yield "<main>\n"
    yield from _matrix(report, found)
    yield from _rules(report)
    shown = worst(report)
    if samples and shown is not None:
        yield from _samples(samples, shown)
    for each in sorted(found, key=riskiness):
        brought = (attributed or {}).get(each.scheme)
        yield from _scheme(report, each.scheme, brought, is_open=each.scheme == shown)
    yield from _method(report, is_attributed=bool(attributed))
    yield from _environment(report)
    yield f"""</main>
<footer><p>Quail {text(report.quail_version)}, run <code>{text(report.run_id)}</code></p></footer>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def text(anything: str) -> str:
    """Return any text as HTML text, which may also stand in an attribute."""
    return escape(printable(anything), quote=True)


def _names(report: Report) -> str:
    return f"{report.request.original} → {report.request.unlearned}"


def _header(report: Report, found: Sequence[SchemeStanding]) -> Iterator[str]:
    outcome = report.verdict.outcome if report.verdict is not None else "unknown"
    unjudged = wording.unjudged_mark(report.exit_code)
    word = wording.OUTCOME_MARKS[report.verdict.outcome] if report.verdict is not None else unjudged
    yield f'<header>\n<h1><span class="brand">Quail</span>{text(_names(report))}</h1>\n'
    yield f'<section class="verdict {outcome}" aria-label="Verdict">\n<div class="word">{word}</div>\n'
    if report.verdict is not None and (said := findings.headline(report)):
        yield f'<p class="headline">{text(said)}</p>\n'
    if share := wording.measured_share_line(report):
        yield f'<p class="share">{text(share)}</p>\n'
    if report.failure is not None:
        yield f"<p>{text(wording.failure_line(report.failure))}. Everything measured before is below.</p>\n"
    if report.verdict is not None:
        if len(found) > 1:
            held = wording.holds_at_line(found, weights_only=report.request.data is None)
            yield f"<p><strong>{text(held)}</strong></p>\n" if held else ""
        yield _list(reason.message for reason in said_reasons(report))
    if lines := "".join(f"<li>{text(line)}</li>" for line in wording.difference_lines(report)):
        yield f'<ul class="note">{lines}</ul>\n'
    yield "</section>\n</header>\n"


def _matrix(report: Report, found: Sequence[SchemeStanding]) -> Iterator[str]:
    yield "<h2>Formats</h2>\n"
    rows = []
    for each in found:
        standing = each.standing.replace(" ", "-")
        metric = findings.forget_title(each.metric) if each.metric is not None else ""
        rows.append(
            f'<th scope="row"><code>{text(each.scheme)}</code></th>'
            f'<td class="standing {standing}">{wording.STANDING_MARKS[each.standing]}</td>'
            f'<td class="number">{wording.back_text(each.knowledge) or wording.UNKNOWN}</td>'
            f'<td class="{standing}">{_track(each.knowledge)}{wording.worst_knowledge(each)}</td>'
            f"<td>{text(metric)}</td>"
            f'<td class="number">{findings.utility_kept(each, report.schemes[each.scheme])}</td>'
            f'<td class="number">{wording.layers_at_risk(each)}</td>'
        )
    headings = (
        *(("format", ""), ("verdict", ""), ("back", "number"), ("worst known [95 %]", ""), ("metric", "")),
        *(("utility kept", "number"), ("layers at risk", "number")),
    )
    yield from _table("Formats", headings, rows)
    for each in found:
        if each.failure is not None:
            why = text(wording.failure_line(each.failure))
            yield f'<p class="note"><code>{text(each.scheme)}</code> could not be measured: {why}</p>\n'


def _rules(report: Report) -> Iterator[str]:
    found = shown_rules(report)
    if not found:
        return
    yield f"<h2>Rules: {text(policy_title(report))}</h2>\n"
    rows = []
    for each in found:
        first, *others = (text(cell) for cell in rule_row(each).cells)
        rows.append(f'<th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}')
    yield from _table("Rules", [(heading, "") for heading in HEADINGS], rows)
    reasons = "".join(f"<li>{text(each.message)}</li>" for each in found if each.standing != "passed")
    if reasons:
        yield f'<ul class="note">{reasons}</ul>\n'


def _track(knowledge: Knowledge | None) -> str:
    """Return the interval as a bar from 0 to 110 %, with the mean as a line."""
    known = knowledge.known if knowledge is not None else None
    if known is None:
        return ""
    places = {"low": known.low, "high": known.high, "at": known.percent}
    style = ";".join(f"--{name}:{min(100.0, max(0.0, value / 1.1)):.1f}%" for name, value in places.items())
    return f'<span class="track" style="{style}" aria-hidden="true"><i></i><b></b></span>'


def _scheme(report: Report, scheme: str, brought: BroughtBack | None, *, is_open: bool) -> Iterator[str]:
    measured = report.schemes[scheme]
    if not measured.metrics and not measured.layers:
        return
    yield f"<h2>At <code>{text(scheme)}</code></h2>\n"
    yield _list(reason.message for reason in scheme_reasons(report, scheme))
    yield from _findings(scheme, measured)
    if measured.metrics:
        yield "<h3>Scores of each arm</h3>\n"
        yield from _scores(scheme, measured)
    if measured.layers:
        counts = wording.state_counts(measured.layers)
        yield f"<details{' open' if is_open else ''}><summary>Layers: {counts}</summary>\n"
        yield from _heat_map(scheme, measured.layers)
        yield from _layers(scheme, measured.layers, brought)
        yield "</details>\n"


def _list(lines: Iterable[str]) -> str:
    shown = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{shown}</ul>\n" if shown else ""


def _findings(scheme: str, measured: SchemeReport) -> Iterator[str]:
    """Yield what is known, what is kept, and how far membership can be told again."""
    for label, headings, rows in (
        ("Forgetting", findings.KNOWLEDGE_HEADINGS, [row.cells for row in findings.knowledge_rows(measured)]),
        ("Utility", findings.UTILITY_HEADINGS, findings.utility_rows(measured)),
        ("Membership", findings.MEMBERSHIP_HEADINGS, findings.membership_rows(measured)),
    ):
        if rows:
            sides = ["" if heading in (headings[0], "outcome") else "number" for heading in headings]
            shown = (
                f'<th scope="row">{text(row[0])}</th>'
                + "".join(
                    f'<td class="{side}">{text(cell)}</td>' for cell, side in zip(row[1:], sides[1:], strict=True)
                )
                for row in rows
            )
            yield f"<h3>{label}</h3>\n"
            yield from _table(f"{label} at {scheme}", zip(headings, sides, strict=True), shown)
    if findings.has_untold_residual(measured):
        yield f'<p class="note">{text(findings.NOT_TOLD_NOTE)}</p>\n'


def _scores(scheme: str, measured: SchemeReport) -> Iterator[str]:
    arms = arms_in_order({arm for scores in measured.metrics.values() for arm in scores}, scheme)
    rows = []
    for metric in findings.metrics_in_order(measured.metrics):
        scores = measured.metrics[metric]
        figures = "".join(
            f'<td class="number">{wording.mean_with_interval(scores.get(arm), metric)}</td>' for arm in arms
        )
        number = max(score.samples for score in scores.values())
        title = text(findings.full_title(metric))
        rows.append(f'<th scope="row">{title}</th>{figures}<td class="number">{number}</td>')
    headings = [("metric", ""), *((arm.replace("/", " / "), "number") for arm in arms), ("n", "number")]
    yield from _table(f"Scores at {scheme}", headings, rows)


def _heat_map(scheme: str, layers: Sequence[LayerStatistics]) -> Iterator[str]:
    """Yield a table of blocks by roles; a cell's mark and colour show its state, its title the figures."""
    placed = {(layer.block, layer.role): layer for layer in layers if layer.block is not None}
    if not placed:
        return
    roles = list(dict.fromkeys(role for _, role in placed))
    rows = []
    for block in sorted({block for block, _ in placed if block is not None}):
        cells = "".join(_cell(placed.get((block, role))) for role in roles)
        rows.append(f'<th scope="row">{block}</th>{cells}')
    yield from _table(f"Blocks by roles at {scheme}", [("block", ""), *((role, "") for role in roles)], rows, "heat")


def _cell(layer: LayerStatistics | None) -> str:
    if layer is None:
        return "<td></td>"
    state = wording.layer_state(layer)
    figures = f"overlap {wording.share_text(layer.overlap)}, survival {wording.ratio_text(layer.survival)}"
    mark = wording.STATE_MARKS[layer.state] if layer.state else "!"
    return f'<td class="{text(state)}" title="{text(f"{layer.name}: {state}, {figures}")}">{mark} {text(state)}</td>'


def _layers(scheme: str, layers: Sequence[LayerStatistics], brought: BroughtBack | None) -> Iterator[str]:
    *columns, last = _LAYER_COLUMNS
    columns += ["brings back"] if brought else []
    headings = [(column, "" if column in ("layer", "state") else "number") for column in (*columns, last)]
    rows = []
    for rank, layer in enumerate(sorted(layers, key=badness)):
        figures: tuple[tuple[float | None, str], ...] = (
            (layer.weights, wording.count_text(layer.weights)),
            (layer.identical, wording.share_text(layer.identical)),
            (layer.overlap, wording.share_text(layer.overlap)),
            (layer.survival, wording.ratio_text(layer.survival)),
            (layer.noise, wording.ratio_text(layer.noise)),
            (layer.update_to_bucket, wording.ratio_text(layer.update_to_bucket)),
        )
        if brought:
            unit = brought.get(layer.name)
            figures += ((None if unit is None else unit.share, wording.brought_back_text(unit)),)
        cells = "".join(
            f'<td class="number" data-key="{"" if value is None else value}">{shown}</td>' for value, shown in figures
        )
        state = text(wording.layer_state(layer))
        rows.append(
            f'<th scope="row"><code>{text(layer.name)}</code></th>{cells}'
            f'<td class="{state}" data-key="{rank}">{state}</td>'
        )
    yield from _table(f"Layers at {scheme}, the worst first", headings, rows, "sortable")


def _table(label: str, headings: Iterable[tuple[str, str]], rows: Iterable[str], kind: str = "") -> Iterator[str]:
    """Yield a table in a region that the keyboard can scroll. Rows are HTML already."""
    cells = []
    for heading, side in headings:
        shown = f'<button type="button">{text(heading)}</button>' if kind == "sortable" else text(heading)
        sort = ' aria-sort="none"' if kind == "sortable" else ""
        cells.append(f'<th scope="col" class="{side}"{sort}>{shown}</th>')
    yield f'<div class="scroll" role="region" tabindex="0" aria-label="{text(label)}"><table class="{kind}">\n'
    yield f"<thead><tr>{''.join(cells)}</tr></thead>\n<tbody>\n"
    yield from (f"<tr>{row}</tr>\n" for row in rows)
    yield "</tbody></table></div>\n"


def _samples(samples: Sequence[WorstSample], scheme: str) -> Iterator[str]:
    yield f"<h2>Samples that came back most at <code>{text(scheme)}</code></h2>\n"
    yield (
        '<p class="note">Words that an answer shares with the truth, as ROUGE-L counts them, are marked. The way of '
        "asking that brought an answer out stands beside its score, if it is not the data's own.</p>\n"
    )
    for sample in samples:
        yield f'<article class="sample"><h3>{text(findings.forget_title(sample.metric))}, sample {sample.number}</h3>\n'
        yield f"<p>{text(sample.prompt)}</p>\n<dl><dt>the truth</dt><dd>{text(sample.truth)}</dd>\n"
        for arm, answer in sample.answers.items():
            score = wording.value_text(sample.scores[arm], sample.metric)
            way = f" · {text(sample.ways[arm])}" if sample.ways[arm] else ""
            marked = _mark_shared_words(sample.truth, answer) or wording.UNKNOWN
            yield f"<dt>{text(arm)} · {score}{way}</dt><dd>{marked}</dd>\n"
        yield "</dl></article>\n"


def _mark_shared_words(truth: str, answer: str) -> str:
    shown, at = [], 0
    for start, end in shared_words(truth, answer).spans:
        shown += [text(answer[at:start]), f"<mark>{text(answer[start:end])}</mark>"]
        at = end
    return "".join([*shown, text(answer[at:])])


def _method(report: Report, *, is_attributed: bool) -> Iterator[str]:
    yield "<h2>How it was measured, and what was not</h2>\n"
    about_data = text(findings.OLDER_NOTE).capitalize() + "." if was_measured_by_recovery(report) else _ABOUT_KNOWLEDGE
    about_data = _ABOUT_MISSING_DATA if report.request.data is None else about_data
    for paragraph in (_ABOUT_WEIGHTS, about_data, *((_ABOUT_ATTRIBUTION,) if is_attributed else ()), _ABOUT_LIMITS):
        yield f"<p>{paragraph}</p>\n"
    notes = [f"not measured: {findings.full_title(metric)} ({why})" for metric, why in report.skipped.items()]
    notes += sorted({f"rounded arms: {arm.reason}" for arm in report.arms.values() if arm.reason})
    notes += report.notes
    notes = [*filter(None, [findings.population_line(report)]), *notes]
    if notes:
        yield f'<ul class="note">{"".join(f"<li>{text(note)}</li>" for note in notes)}</ul>\n'


def _environment(report: Report) -> Iterator[str]:
    facts = {"run": report.run_id, "started": report.started, "finished": report.finished or wording.UNKNOWN}
    for side, found in report.checkpoints.items():
        revision = f" at {found.revision}" if found.revision else ""
        size = f"{wording.count_text(found.parameters)} parameters, {wording.byte_size(found.size_bytes)}"
        facts[side] = (
            f"{found.source}{revision}: {found.architecture or 'unknown architecture'}, {found.format}, {size}"
        )
    facts["judged by"] = policy_title(report)
    facts["samples"] = ", ".join(f"{metric} {number}" for metric, number in report.samples.items()) or "none"
    facts |= report.environment
    if report.digest is not None:
        facts["digest of this report"] = report.digest
    yield '<h2>Environment</h2>\n<dl class="facts">\n'
    yield from (f"<dt>{text(name)}</dt><dd>{text(value)}</dd>\n" for name, value in facts.items())
    yield "</dl>\n"
    yield from _files(report)
    yield "<h2>How to repeat it</h2>\n"
    yield f"<pre><code>{text(shlex.join(['quail', *audit_arguments(report.request)]))}</code></pre>\n"


def _files(report: Report) -> Iterator[str]:
    """Yield the files that were read, each with its hash."""
    if not report.files:
        return
    size = wording.byte_size(sum(each.bytes for each in report.files))
    yield f"<details><summary>Files read: {len(report.files)}, {size}, each with its SHA-256</summary>\n"
    rows = (
        f'<th scope="row"><code>{text(each.path)}</code></th><td>{text(each.role)}</td>'
        f'<td class="number">{each.bytes:,}</td><td><code>{text(each.sha256)}</code></td>'
        for each in report.files
    )
    yield from _table("Files read", (("file", ""), ("role", ""), ("bytes", "number"), ("SHA-256", "")), rows)
    yield "</details>\n"

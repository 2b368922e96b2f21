"""Measure what --stop-when-decided saves on the demo, and how often its verdict is that of the full audit.

    python docs/experiments/stop_when_decided.py record quail-demo figures
    python docs/experiments/stop_when_decided.py replay figures

`record` audits three pairs in full and writes each report with the tokens that every answer took: the demo's unlearned
checkpoint, which fails; its reference as the unlearned one, which passes; and a pair near the limit, a fifth of the way
from the repaired checkpoint to the original. `replay` then puts the items of each report in 100 random orders, and lets
Quail's own rule decide when to stop, for an audit of both schemes and for one of nf4 alone: no model is asked.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from quail_audit.engine.audit.run import audit
from quail_audit.engine.forgetting.models import language_model
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.events.audit import MetricScored
from quail_audit.schema.policy import Policy
from quail_audit.schema.report import Report
from quail_audit.schema.requests import AuditRequest
from quail_audit.verdict.judge import day_of, judge_report
from quail_audit.verdict.metric_kinds import DECIDING_METRICS
from quail_audit.verdict.roles import arms_at
from quail_audit.verdict.stopping import decisions, looks

SEEDS = 100
SCHEMES = ("nf4", "fp4")
T = TypeVar("T")
Tokens = dict[str, dict[str, list[int]]]  # metric -> arm -> generated tokens by item


def record(demo: Path, out: Path, unlearned: Path, name: str) -> None:
    """Audit a pair in full, and write its report and the tokens of its answers."""
    calls: list[dict[int, int]] = []
    real = language_model.generate

    def counted(*arguments: Any, **named: Any) -> Iterator[tuple[int, list[int]]]:
        calls.append({})
        for index, ids in real(*arguments, **named):
            calls[-1][index] = len(ids)
            yield index, ids

    language_model.generate = counted
    request = AuditRequest(
        original=str(demo / "original"),
        unlearned=str(unlearned),
        retrain=str(demo / "retrain"),
        data=str(demo / "data"),
        schemes=SCHEMES,
        device="cpu",
    )
    state, tokens = AuditState(), defaultdict[str, dict[str, list[int]]](dict)
    for event in audit(request, name):
        state.apply(event)
        if isinstance(event, MetricScored) and calls:
            (found,) = calls
            tokens[event.metric][event.arm] = [found[item] for item in sorted(found)]
            calls.clear()
    language_model.generate = real
    (out / f"{name}.report.json").write_text(state.report().model_dump_json())
    (out / f"{name}.tokens.json").write_text(json.dumps(tokens))


def record_all(demo: Path, out: Path) -> None:
    """Record the three pairs."""
    out.mkdir(exist_ok=True)
    record(demo, out, demo / "unlearned", "fail")
    record(demo, out, demo / "retrain", "pass")
    record(demo, out, near_the_limit(demo, out), "borderline")


def near_the_limit(demo: Path, out: Path, share: float = 0.2) -> Path:
    """Return a checkpoint part of the way from the repaired one to the original."""
    from safetensors.torch import load_file, save_file

    made = out / "between"
    shutil.copytree(demo / "repaired", made, dirs_exist_ok=True)
    for file in made.glob("*.safetensors"):
        repaired, original = load_file(file), load_file(demo / "original" / file.name)
        between = {key: value + share * (original[key] - value) for key, value in repaired.items()}
        save_file(between, file, metadata={"format": "pt"})
    return made


def replay(out: Path, name: str, schemes: tuple[str, ...] = SCHEMES, seeds: int = SEEDS) -> None:
    """Print what 100 random orders of a recorded pair's items come to, if only these schemes had been audited."""
    report = Report.model_validate_json((out / f"{name}.report.json").read_text())
    tokens: Tokens = json.loads((out / f"{name}.tokens.json").read_text())
    left = {scheme: report.schemes[scheme] for scheme in schemes}
    items = {metric: _of_schemes(arms, schemes) for metric, arms in report.items.items()}
    report = report.model_copy(update={"schemes": left, "items": items})
    tokens = {metric: _of_schemes(arms, schemes) for metric, arms in tokens.items()}
    whole = _outcomes(report)
    saved, same, asked_of = [], 0, []
    every = sum(sum(each) for arms in tokens.values() for each in arms.values())
    for seed in range(seeds):
        stopped, asked = _stop(report, seed)
        same += _outcomes(stopped) == whole
        asked_of.append(max(len(arms["unlearned/nf4"]) for arms in stopped.items.values() if "unlearned/nf4" in arms))
        spent = sum(
            tokens[metric][arm][item]
            for metric, arms in stopped.items.items()
            for arm in arms
            if metric in tokens
            for item in asked[metric][: len(arms[arm])]
        )
        saved.append(100.0 * (1.0 - spent / every))
    saved.sort()
    print(
        f"{name}, {whole}: the same verdict in {same} of {seeds} orders; generated tokens saved: median "
        f"{saved[seeds // 2]:.0f} %, {saved[seeds // 20]:.0f} to {saved[-1 - seeds // 20]:.0f} % in 9 of 10; "
        f"most items of a metric at nf4: median {sorted(asked_of)[seeds // 2]}"
    )


def _of_schemes(arms: dict[str, T], schemes: tuple[str, ...]) -> dict[str, T]:
    return {arm: found for arm, found in arms.items() if arm.rpartition("/")[2] in ("full", *schemes)}


def _outcomes(report: Report) -> dict[str, str]:
    judged = judge_report(report, Policy(), day_of(report))
    return {scheme: verdict.outcome for scheme, verdict in judged.schemes.items()}


def _stop(report: Report, seed: int) -> tuple[Report, dict[str, list[int]]]:
    """Return a report of the items that a stopping audit would have asked, and the order of each metric's items."""
    draws, orders = random.Random(seed), dict[int, list[int]]()  # noqa: S311 - no secret
    count = {metric: len(next(iter(arms.values()))) for metric, arms in report.items.items()}
    deciding = [metric for metric in count if metric in DECIDING_METRICS]
    for items in sorted({count[metric] for metric in deciding}):
        orders[items] = draws.sample(range(items), items)  # metrics of one kind ask the same items
    asked = {metric: orders[count[metric]] if metric in deciding else list(range(count[metric])) for metric in count}
    done: dict[str, int] = {}  # arm -> items
    arms = tuple(report.items[deciding[0]])
    stopped, decided = report, dict[str, str]()
    for look in looks(max(count[metric] for metric in deciding)):
        for scheme in set(report.schemes) - set(decided):
            found = arms_at(arms, scheme)
            done |= dict.fromkeys(found.named().values() if found else arms, look)
        items = {
            metric: {
                arm: _picked(scores, asked[metric][: done.get(arm, 0)]) for arm, scores in report.items[metric].items()
            }
            for metric in deciding
        }
        stopped = report.model_copy(update={"items": items})
        decided = dict(decisions(stopped, Policy()))
        if len(decided) == len(report.schemes):
            break
    failing = [scheme for scheme, why in decided.items() if why == "fails"]
    left = [found for scheme in report.schemes if scheme not in failing and (found := arms_at(arms, scheme))]
    kept = {arm for found in left for arm in found.named().values()}
    others = {
        metric: {arm: scores for arm, scores in by_arm.items() if arm in kept}
        for metric, by_arm in report.items.items()
        if metric not in deciding and kept
    }
    return stopped.model_copy(update={"items": stopped.items | others}), asked


def _picked(scores: tuple[float, ...], places: list[int]) -> tuple[float, ...]:
    return tuple(scores[place] for place in places)


if __name__ == "__main__":
    folder = Path(sys.argv[-1])
    if sys.argv[1] == "record":
        record_all(Path(sys.argv[2]), folder)
    for each in ("fail", "pass", "borderline"):
        for of in (SCHEMES, SCHEMES[:1]):
            replay(folder, each, of)

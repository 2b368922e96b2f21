"""Ask the arms one after another, or in blocks of items until the evidence decides every scheme."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from quail_audit.engine.audit.arms import Asking
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event, Events
from quail_audit.verdict.metric_kinds import DECIDING_METRICS, SHOWN_WITH_THEM, items_word
from quail_audit.verdict.roles import arms_at
from quail_audit.verdict.stopping import decisions, looks, required_items

if TYPE_CHECKING:
    from quail_audit.engine.audit.subject import Subject
    from quail_audit.engine.audit.work import Work
    from quail_audit.engine.forgetting.data.types import ForgettingData
    from quail_audit.engine.forgetting.evaluate import ArmScores

ITEMS, OTHERS = "items", "others"  # groups of metrics: of the items that decide; of all else


def measure_arms(subject: Subject, data: ForgettingData, work: Work) -> Generator[Event, None, dict[str, ArmScores]]:
    """Score the arms, one after another or in blocks; leave out those of a scheme that fails."""
    asking = Asking(subject, data, work)
    if work.request.stop_when_decided:
        yield from ask_until_decided(asking)
    else:
        for arm in subject.arms:
            yield from asking.ask(arm, rows_asked(data), tuple(data.samples))
            work.keep_asked(*({arm} & asking.scores.keys()))
    work.keep_asked(*asking.scores)
    return asking.scores


def rows_asked(data: ForgettingData) -> int:
    """Return the rows of the largest set."""
    sets = (
        *data.continuations.values(),
        *(questions.asked for questions in data.questions.values()),
        *data.texts.values(),
        *data.labelled.values(),
    )
    return max((len(rows) for rows in sets), default=0) or 1  # a metric of another package may have data of its own


def ask_until_decided(asking: Asking) -> Events:
    """Ask all arms of every scheme that is open a block of items, weigh the evidence, and go on.

    Utility, membership and losses come last, for the schemes that don't fail by the forget set, whose verdict they
    cannot change. If there are none, not at all.
    """
    data, policy = asking.data, asking.work.policy
    of_items = tuple(metric for metric in data.samples if metric in (*DECIDING_METRICS, *SHOWN_WITH_THEM))
    others = tuple(metric for metric in data.samples if metric not in of_items)
    decided: dict[str, str] = {}
    if any(metric in DECIDING_METRICS for metric in of_items):
        items = max(data.samples[metric] for metric in of_items)
        for end in looks(items, required_items(policy)):
            for arm in _arms_of(asking, but=decided):
                yield from asking.ask(arm, end, of_items, ITEMS)
            decided = dict(decisions(asking.work.report(), policy))
            if decided.keys() >= set(asking.subject.judged):
                break
        yield from _say_what_was_not_asked(asking, decided)
    failing = [scheme for scheme, why in decided.items() if why == "fails"]
    if others and (arms := _arms_of(asking, but=failing)):
        for arm in arms:
            yield from asking.ask(arm, rows_asked(data), others, OTHERS)
    if others and failing:
        yield Noted(
            message=f"stopped when decided: {', '.join(failing)} failed by the forget set, so nothing else was asked "
            f"there, such as {others[-1]}"
        )


def _arms_of(asking: Asking, but: object) -> tuple[str, ...]:
    """Return the arms of the schemes that are judged but for some; none if no scheme is left."""
    left = [scheme for scheme in asking.subject.judged if scheme not in but]  # type: ignore[operator]
    arms = tuple(asking.subject.arms)
    needed = [found.named().values() if (found := arms_at(arms, scheme)) else arms for scheme in left]
    return tuple(arm for arm in arms if any(arm in each for each in needed))


def _say_what_was_not_asked(asking: Asking, decided: object) -> Events:
    """Note for each scheme how many items it was asked, if not all."""
    report = asking.work.report()
    counts = {}
    for scheme in asking.subject.judged:
        asked: dict[str, str] = {}
        for metric, scores in report.items.items():
            arms, most = arms_at(scores, scheme), asking.data.samples.get(metric, 0)
            if metric not in DECIDING_METRICS or arms is None:
                continue
            items = min(len(scores[arm]) for arm in arms.named().values())
            if items < most:
                asked[items_word(metric)] = f"{items} of {most} {items_word(metric)}"
        if asked:
            counts[scheme] = " and ".join(asked.values())
    if counts:
        said = "; ".join(f"{scheme} after {count}" for scheme, count in counts.items())
        yield Noted(message=f"stopped when decided: {said}")

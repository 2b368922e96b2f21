"""Write docs/validity.md from the results: no figure on it is typed by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from tests.validity.results import Interval, Judged, Result
from tests.validity.truth_set import FEW, FORGET, RETAIN
from tests.validity.truths import LEAST_FORMAT, LEAST_UTILITY, LIMIT, NEAR

GOAL = (
    "Goal, from 64 items on: false passes at most 1 % of the bad pairs, false fails at most 5 % of the clean ones, "
    "inconclusive at most 15 % of all."
)
_Row = Sequence[object]


def page(results: Sequence[Result], cases: int, earlier_intervals: dict[int, list[Interval]]) -> str:
    """Return the page.

    Args:
        results: every result.
        cases: number of checkpoints in the whole truth set.
        earlier_intervals: number of items -> the intervals of the earlier rule on partial leaks.
    """
    few = [each for each in results if each.case.items == FEW]
    clear = [each for each in results if not each.truth.borderline and each.case.items != FEW]
    usable = [each for each in clear if each.truth.label != "breaks"]
    parts = [
        _beginning(results, cases),
        "## Verdict and truth\n\n" + GOAL + "\n\n" + _by_number(usable),
        "## By kind\n\n" + _by_kind(usable),
        "## Pairs near a limit\n\n"
        f"These pairs are within {NEAR:g} points of a limit of the truth: they count in no table above.\n\n"
        + _by_number([each for each in results if each.truth.borderline and each not in few]),
        "## Formats that break the model\n\n"
        f"The original keeps less than {LEAST_FORMAT:g} % of its retain score at the scheme, and the checkpoint does "
        "not leak in full precision. Inconclusive is right.\n\n"
        + _outcomes([each for each in clear if each.truth.label == "breaks"]),
        f"## Too few items\n\nCheckpoints unlearned for good, audited on {FEW} items. Inconclusive is right.\n\n"
        + _outcomes([each for each in few if each.truth.label in ("clean", "breaks")]),
        "## Intervals\n\n" + _coverage(results, earlier_intervals),
        "## Layers\n\n" + _layers([each for each in results if each.items == FORGET]),
        "## Every verdict that came out wrong\n\n" + _wrong(clear),
    ]
    return "\n\n".join(parts) + "\n"


def _beginning(results: Sequence[Result], cases: int) -> str:
    checked = {each.case.key for each in results}
    groups = sorted({each.case.group.architecture for each in results})
    part = "" if len(checked) == cases else f" **This page is of {len(checked)} of the {cases} checkpoints.**"
    return f"""# How far the verdict can be trusted

<!-- Written by `make validity`. Do not edit. -->

`make validity` makes {cases} small unlearned checkpoints from nothing, tells what is true of each without Quail, audits
them with Quail, and writes this page. If it is stopped, it goes on with what is there.{part}

- **Checkpoints**: {len(checked)}, of {len(groups)} architectures ({", ".join(groups)}), about 0.3 million weights each,
  with {FORGET} invented texts to forget and {RETAIN} to keep. Each architecture has an original that knows both and a
  reference that never saw the first. `tests/validity/truth_set.py` lists how each was unlearned.
- **Truth**: `tests/validity/evaluator.py` asks every item, with the data's prompt and with one token, a quarter and
  half of the truth more, in full precision and rounded by bitsandbytes, by gguf or by the format's formula. A pair
  *leaks* if, by the answer, its probability or its extraction strength, more than {LIMIT:g} % of what there was to
  forget is known or more than {LIMIT:g} % of the items are back, in full precision or at the scheme. It is *useless* if
  it keeps less than {LEAST_UTILITY:g} % of the retain answers. Else it is *clean*.
- **Verdicts**: those of `quail audit` at each scheme, with the default limits. On fewer items they are those of an
  audit of the first of them. A leak and a useless checkpoint have to fail, a clean one to pass.
  *Earlier rule* is what Quail did before: the recovery of the mean answer above the higher floor, by bootstrap."""


def _by_number(results: Sequence[Result]) -> str:
    rows: list[_Row] = []
    for items in sorted({each.items for each in results}):
        some = [each for each in results if each.items == items]
        for rule, judged in _RULES.items():
            rows.append((items, rule, *_rates(some, judged)))
    heading = ("items", "rule", "bad", "false pass", "clean", "false fail", "inconclusive of all")
    return _table(heading, rows)


def _by_kind(results: Sequence[Result]) -> str:
    rows: list[_Row] = []
    for kind in dict.fromkeys(each.case.kind for each in results):
        of_kind = [each for each in results if each.case.kind == kind]
        for items in sorted({each.items for each in of_kind}):
            some = [each for each in of_kind if each.items == items]
            counts = {rule: Counter(map(judged, some)) for rule, judged in _RULES.items()}
            labels = Counter(each.truth.label for each in some)
            truth = ", ".join(f"{count} {label}" for label, count in sorted(labels.items()))
            wrong = [
                f"{found['false pass']} / {found['false fail']} / {found['inconclusive']}" for found in counts.values()
            ]
            rows.append((kind, items, truth, *wrong))
    heading = ("kind", "items", "truth", "false pass / false fail / inconclusive", "the same by the earlier rule")
    return _table(heading, rows)


def _outcomes(results: Sequence[Result]) -> str:
    rows: list[_Row] = []
    for items in sorted({each.items for each in results}):
        some = [each for each in results if each.items == items]
        for rule in _RULES:
            found = Counter(each.outcome if rule == "Quail" else each.earlier.outcome for each in some)
            rows.append((items, rule, len(some), found["inconclusive"], found["fail"], found["pass"]))
    return _table(("items", "rule", "pairs", "inconclusive", "fail", "pass"), rows)


def _coverage(results: Sequence[Result], earlier: dict[int, list[Interval]]) -> str:
    rows: list[_Row] = []
    for figure in ("known", "back"):
        for items in sorted({each.items for each in results}):
            found = [
                interval
                for each in results
                if each.items == items
                for interval in getattr(each, figure).values()
                if interval.whole is not None
            ]
            if found and items < FORGET:
                rows.append((figure, items, len(found), _share(sum(each.covers for each in found), len(found))))
    for items, intervals in sorted(earlier.items()):
        covered = sum(each.covers for each in intervals)
        rows.append(("recovery, earlier rule, partial leaks", items, len(intervals), _share(covered, len(intervals))))
    return (
        "How often the interval of an audit of some items holds the figure of all items.\n\n"
        + _table(("figure", "items", "intervals", "covered"), rows)
    )  # fmt: skip


def _layers(results: Sequence[Result]) -> str:
    """Return the pairs that are forgotten in full precision and whose format carries the model, by their noise."""
    rows: list[_Row] = []
    told = [
        (each.summary.noise or 0.0, each.truth.known, each)
        for each in results
        if each.summary is not None and each.truth.format >= LEAST_FORMAT and _is_forgotten(each)
    ]
    for noise, known, each in sorted(told, key=lambda found: found[0]):
        assert each.summary is not None
        survival = each.summary.survival or 0.0
        states = f"{each.summary.layers_erased} / {each.summary.layers_drowned} / {each.summary.layers_carried}"
        rows.append((each.name, f"{noise:.2f}", f"{each.summary.overlap:.4f}", f"{survival:.2f}", states,
                     f"{each.truth.known_full:.0f} / {known:.0f}"))  # fmt: skip
    return (
        "Pairs that are forgotten in full precision, at formats that carry the model, by the noise that rounding puts "
        "over the update.\n\n"
        + _table(("pair", "noise", "overlap", "survival", "erased / drowned / carried", "known, full / deployed"), rows)
    )


def _is_forgotten(each: Result) -> bool:
    return max(each.truth.known_full, each.truth.back_full) <= LIMIT


def _wrong(results: Sequence[Result]) -> str:
    rows: list[_Row] = [
        (
            each.name, each.case.kind, each.items, each.truth.label, each.outcome, ", ".join(each.reasons),
            f"{each.truth.known_full:.0f} / {each.truth.known:.0f}",
            f"{each.truth.back_full:.0f} / {each.truth.back:.0f}",
            f"{each.truth.utility:.0f}", each.truth.by,
        )
        for each in results
        if each.judged in ("false pass", "false fail")
    ]  # fmt: skip
    if not rows:
        return "None."
    heading = (
        "pair", "kind", "items", "truth", "verdict", "reasons", "known, full / deployed", "back, full / deployed",
        "utility", "told by",
    )  # fmt: skip
    return _table(heading, rows)


def _rates(results: Sequence[Result], judged: Callable[[Result], Judged]) -> Iterable[object]:
    bad = [judged(each) for each in results if each.truth.label != "clean"]
    clean = [judged(each) for each in results if each.truth.label == "clean"]
    undecided = (bad + clean).count("inconclusive")
    yield len(bad)
    yield _share(bad.count("false pass"), len(bad))
    yield len(clean)
    yield _share(clean.count("false fail"), len(clean))
    yield _share(undecided, len(results))


def _share(count: int, of: int) -> str:
    return f"{count} of {of} ({100 * count / of:.1f} %)" if of else "—"


def _table(heading: Sequence[str], rows: Sequence[_Row]) -> str:
    if not rows:
        return "None."
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (heading, ["---"] * len(heading), *rows)]
    return "\n".join(lines)


_RULES: dict[str, Callable[[Result], Judged]] = {
    "Quail": lambda each: each.judged,
    "earlier rule": lambda each: each.earlier_judged,
}

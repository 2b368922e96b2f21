"""Give every face the same words, marks and number formats; no layout."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from quail_audit.core.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_USAGE
from quail_audit.runs.state.audit import HashingProgress, QuantizingProgress
from quail_audit.schema.events.cures import UnitMeasured
from quail_audit.schema.figures import NAMES_KEPT, Estimate, Knowledge, LayerStatistics, Outcome, Score, State
from quail_audit.schema.report import STATES_BY_RISK, Failure, Report
from quail_audit.verdict.standings import SchemeOutcome, SchemeStanding, holds_at

STATE_MARKS: Mapping[State, str] = {"untouched": "░", "carried": "▁", "drowned": "▃", "erased": "█"}

STATE_MEANINGS: Mapping[State, str] = {
    "untouched": "no weight changed",
    "carried": "the rounded model carries the update",
    "drowned": "the update is there on average, but rounding noise drowns it",
    "erased": "rounding removed the update",
}

STATE_STYLES: Mapping[State, str] = {"untouched": "dim", "carried": "green", "drowned": "yellow", "erased": "bold red"}

OUTCOME_MARKS: Mapping[Outcome, str] = {"pass": "✓ PASS", "fail": "✗ FAIL", "inconclusive": "? INCONCLUSIVE"}

OUTCOME_STYLES: Mapping[Outcome, str] = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}

STANDING_MARKS: Mapping[SchemeOutcome, str] = {
    "pass": OUTCOME_MARKS["pass"],
    "fail": OUTCOME_MARKS["fail"],
    "inconclusive": OUTCOME_MARKS["inconclusive"],
    "not measured": "! NOT MEASURED",
    "unknown": "—",
}

STANDING_STYLES: Mapping[SchemeOutcome, str] = {
    "pass": OUTCOME_STYLES["pass"],
    "fail": OUTCOME_STYLES["fail"],
    "inconclusive": OUTCOME_STYLES["inconclusive"],
    "not measured": "bold yellow",
    "unknown": "dim",
}

Unjudged = Literal["stopped", "refused", "failed"]  # a run without a verdict


def unjudged_reason(exit_code: int | None) -> Unjudged:
    """Return why a run that ended has no verdict.

    Args:
        exit_code: of its process; None: it was killed.
    """
    if exit_code in (None, EXIT_INTERRUPTED):
        return "stopped"
    return "refused" if exit_code in (EXIT_USAGE, EXIT_BAD_INPUT) else "failed"


def unjudged_mark(exit_code: int | None) -> str:
    """Return the mark in place of a verdict: "■ STOPPED", "! REFUSED (3)" or "! FAILED (4)"."""
    word = unjudged_reason(exit_code).upper()
    return f"■ {word}" if word == "STOPPED" else f"! {word} ({exit_code})"


NOT_FINITE, NOT_COMPARABLE = "not finite", "not comparable"  # layers without a state


def layer_state(layer: LayerStatistics) -> str:
    """Return a layer's state, or why it has none."""
    if layer.state is not None:
        return layer.state
    return NOT_FINITE if layer.nonfinite_original or layer.nonfinite_unlearned else NOT_COMPARABLE


def state_counts(layers: Iterable[LayerStatistics]) -> str:
    """Return how many layers are in each state: "21 erased · 5 drowned · 2 carried"."""
    counts = Counter(map(layer_state, layers))
    names = (*filter(None, STATES_BY_RISK), NOT_FINITE, NOT_COMPARABLE)
    return " · ".join(f"{counts[name]} {name}" for name in names if counts[name])


METRIC_TITLES: Mapping[str, str] = {
    "verbmem_forget": "VerbMem, forget",
    "verbmem_retain": "VerbMem, retain",
    "knowmem_forget": "KnowMem, forget",
    "knowmem_retain": "KnowMem, retain",
    "verbmem_probability_forget": "VerbMem, prob.",
    "verbmem_extraction_strength_forget": "VerbMem, extr.",
    "verbmem_exact_memorization_forget": "VerbMem, exact",
    "knowmem_probability_forget": "KnowMem, prob.",
    "knowmem_extraction_strength_forget": "KnowMem, extr.",
    "knowmem_exact_memorization_forget": "KnowMem, exact",
    "membership_loss": "Loss AUC",
    "membership_zlib": "zlib AUC",
    "membership_min_k_plus_plus": "Min-40%++ AUC",
    "privleak": "Min-40% AUC",
    "privleak_m3": "PrivLeak",
    "accuracy_forget": "Accuracy, forget",
    "accuracy_retain": "Accuracy, retain",
    "accuracy_test": "Accuracy, test",
    "label_probability_forget": "P(label), forget",
    "macro_f1_forget": "Macro-F1, forget",
    "macro_f1_retain": "Macro-F1, retain",
    "macro_f1_test": "Macro-F1, test",
    "agreement_forget": "Agrees, forget",
    "mia_loss": "MIA loss AUC",
    "mia_loss_m3": "PrivLeak, loss",
    "mia_confidence": "MIA conf. AUC",
    "mia_confidence_m3": "PrivLeak, conf.",
    "nll_forget": "NLL, forget",
    "nll_retain": "NLL, retain",
}

_WHOLE_SET_METRICS = ("privleak", "membership_", "mia_", "macro_f1")

NAMES_SHOWN = 3  # of matrices that are not measured

UNKNOWN = "—"  # an unknown number; never stands for zero


def metric_title(metric: str) -> str:
    """Return a metric's title; a plug-in's metric keeps its own name."""
    return METRIC_TITLES.get(metric, metric)


def is_mean_of_samples(metric: str) -> bool:
    """Return whether the metric is the mean of its samples' scores; an AUC or an F1 needs the whole set."""
    return not metric.startswith(_WHOLE_SET_METRICS)


def share_text(value: float | None) -> str:
    """Return a share with four decimals; "1.0000" only if it is exactly 1."""
    if value is None:
        return UNKNOWN
    shown = f"{value:.4f}"
    return "0.9999+" if shown == "1.0000" and value < 1.0 else shown


def ratio_text(value: float | None) -> str:
    """Return a survival, a noise or an update / bucket width with three decimals, or one from 10 on."""
    return UNKNOWN if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def magnitude_text(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2g}"


def count_text(value: int) -> str:
    """Return a count with its unit: 1234567 as "1.23 M"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)


def value_text(value: float | None, metric: str) -> str:
    """Return a metric's value: nats with two decimals, percentages with one."""
    if value is None:
        return UNKNOWN
    return f"{value:.2f}" if metric.startswith("nll") else f"{value:.1f}"


def mean_text(score: Score | None, metric: str) -> str:
    return value_text(None if score is None else score.mean, metric)


def mean_with_interval(score: Score | None, metric: str) -> str:
    if score is None:
        return UNKNOWN
    half_width = (score.high - score.low) / 2
    return (
        f"{mean_text(score, metric)} ±{half_width:.2f}"
        if metric.startswith("nll")
        else f"{score.mean:.1f} ±{half_width:.1f}"
    )


def back_text(value: Knowledge | None) -> str:
    """Return how many items are back, or still there in full precision: "4 of 32"; nothing if that was not counted."""
    found = None if value is None else value.kept if value.outcome == "not forgotten" else value.back
    return "" if found is None else f"{found.count} of {found.items}"


def knowledge_text(value: Knowledge | None) -> str:
    """Return what is known with its interval, or why nothing is."""
    if value is None:
        return ""
    known = known_of(value)
    return value.outcome if known is None else f"{round(known.percent)} % [{round(known.low)}, {round(known.high)}]"


def known_of(value: Knowledge) -> Estimate | None:
    """Return what the verdict is about: what is known as deployed, or in full precision if it was not forgotten."""
    return value.residual if value.outcome == "not forgotten" else value.known


def brought_back_text(unit: UnitMeasured | None, *, with_interval: bool = True) -> str:
    """Return what a unit brings back, in percent of the drop in forget loss."""
    if unit is None:
        return UNKNOWN
    interval = f" [{100 * unit.low:.0f}, {100 * unit.high:.0f}]" if with_interval else ""
    return f"{100 * unit.share:.0f} %{interval}"


def percent_text(value: float | None) -> str:
    return UNKNOWN if value is None else f"{round(value)} %"


def layers_at_risk(each: SchemeStanding) -> str:
    """Return the layers at risk at a scheme, and of how many: "3 of 28"."""
    return UNKNOWN if each.layers_at_risk is None else f"{each.layers_at_risk} of {each.layers}"


def worst_knowledge(each: SchemeStanding) -> str:
    """Return what is known by the metric that decides a scheme's verdict, with its interval, or why nothing is."""
    return knowledge_text(each.knowledge) or UNKNOWN


def holds_at_line(standings: Sequence[SchemeStanding], *, weights_only: bool) -> str:
    """Return a sentence that names the formats at which forgetting holds; of weights alone, those without a risk.

    It is empty if no format has a verdict of its own, as in the oldest reports.
    """
    if weights_only:
        safe = ", ".join(each.scheme for each in standings if each.layers_at_risk == 0 and each.failure is None)
        found = f"No layer at risk at: {safe}" if safe else "Layers at risk at every format that was measured"
        return f"{found}; forgetting was not measured"
    if all(each.standing == "unknown" for each in standings):
        return ""
    held = holds_at(standings)
    return f"Forgetting holds at: {', '.join(held)}" if held else "Forgetting holds at no format"


def failure_line(failure: Failure) -> str:
    """Return in a line what went wrong, where, and how to mend it. The text is not made printable."""
    where = f"{failure.where}: " if failure.where else ""
    return ". ".join(part.rstrip(".") for part in (where + failure.message, failure.mend) if part)


def quantizing_line(scheme: str, side: str, found: QuantizingProgress, at_s: float) -> str:
    """Return how far a backend is: "gptq-int4-g128: quantizing the original, layer 3 of 14, ~2 m left"."""
    left = found.remaining_s(at_s)
    remaining = f", ~{duration(left)} left" if left is not None else ""
    return f"{scheme}: quantizing the {side}, layer {found.index} of {found.total}{remaining}"


def measured_share_line(report: Report) -> str:
    """Return how much of the weights of the blocks' matrices is measured, or nothing if it is all or is not known."""
    others = report.other_tensors
    if others is None or not others.matrix_weights:
        return ""
    read = max((sum(layer.weights for layer in found.layers) for found in report.schemes.values()), default=0)
    percent = 100 * read // (read + others.matrix_weights)
    share = f"{percent} %" if percent or not read else "less than 1 %"
    names, count = others.matrices[:NAMES_SHOWN], len(others.matrices)
    at_least = " or more" if count == NAMES_KEPT else ""
    listed = ", ".join(names) + (f", … ({count}{at_least})" if count > len(names) else "")
    return f"measured: {share} of the weights of the blocks' matrices; not measured: {listed}"


def difference_lines(report: Report) -> list[str]:
    """Return what differs beside the weights, at most three lines and how many more there are."""
    lines = [
        f"{'differs' if each.side == 'unlearned' else 'the reference differs'} beside the weights: {each.name} "
        f"({each.original} → {each.other})"
        for each in report.differences[:3]
    ]
    more = len(report.differences) - len(lines)
    return [*lines, f"and {more} more differences, in report.json"] if more > 0 else lines


def integrity_lines(report: Report) -> list[str]:
    """Return how many files were read, and the report's digest."""
    lines = []
    if report.files:
        number = f"{len(report.files)} files" if len(report.files) > 1 else "1 file"
        lines.append(f"{number} read, {byte_size(sum(each.bytes for each in report.files))}; hashes are in report.json")
    if report.digest is not None:
        lines.append(f"digest of this report: {report.digest}")
    return lines


def hashing_line(found: HashingProgress) -> str:
    """Return how far hashing is, once all else is done: "hashing the files that were read: 3.1 GB of 5 GB"."""
    return (
        f"hashing the files that were read: {byte_size(found.last.done_bytes)} of {byte_size(found.last.total_bytes)}"
    )


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:d}:{minutes:02d}:{seconds:02d}"


def byte_size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB"

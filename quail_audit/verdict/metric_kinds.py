"""Name the metrics that decide, those of membership, and those that tell utility."""

from collections.abc import Iterable, Mapping

DECIDING_METRICS = (
    "verbmem_forget",
    "verbmem_probability_forget",
    "verbmem_extraction_strength_forget",
    "knowmem_forget",
    "knowmem_probability_forget",
    "knowmem_extraction_strength_forget",
    "accuracy_forget",
    "label_probability_forget",
)
# Scores of the same items that come with them at no cost.
SHOWN_WITH_THEM = ("verbmem_exact_memorization_forget", "knowmem_exact_memorization_forget")
MEMBERSHIP_METRICS = (
    "privleak",
    "membership_loss",
    "membership_zlib",
    "membership_min_k_plus_plus",
    "mia_loss",
    "mia_confidence",
)
_SCORES_OF_TRUTHS = ("_probability_forget", "_extraction_strength_forget", "_exact_memorization_forget")
_KINDS_OF_ITEMS = ("verbmem_", "knowmem_")
_ITEMS: Mapping[str, str] = {"knowmem": "answers"}  # else texts


def retain_metrics(metrics: Iterable[str]) -> tuple[str, ...]:
    """Return the metrics that tell utility. A loss has no zero to be a share of, and macro-F1 is no mean of items."""
    return tuple(
        metric for metric in metrics if metric.endswith("_retain") and not metric.startswith(("nll", "macro_f1"))
    )


def scores_truth(metric: str) -> bool:
    """Return whether a metric scores the truth of each item in one pass, without asking for an answer."""
    return metric.startswith(_KINDS_OF_ITEMS) and metric.endswith(_SCORES_OF_TRUTHS)


def same_items(metric: str, metrics: Iterable[str]) -> tuple[str, ...]:
    """Return the other metrics that score the same items to forget."""
    kind = f"{metric.partition('_')[0]}_"
    if kind not in _KINDS_OF_ITEMS or not metric.endswith("_forget"):
        return ()
    return tuple(m for m in metrics if m != metric and m.startswith(kind) and m.endswith("_forget"))


def items_word(metric: str) -> str:
    """Return the word for a metric's items: texts, or answers."""
    return _ITEMS.get(metric.partition("_")[0], "texts")

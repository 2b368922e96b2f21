"""Metrics of classifiers against scikit-learn and scipy, and cases worked by hand."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from quail_audit.engine.forgetting.data.types import ForgettingData, Labelled, LabelledSet
from quail_audit.engine.forgetting.metrics.interface import Measured, Sample
from quail_audit.engine.forgetting.metrics.macro_f1 import agreement, macro_f1
from quail_audit.engine.forgetting.metrics.privleak import relative_auc
from quail_audit.engine.forgetting.metrics.registry import metric_named

LABELS = ("real", "fake", "joke")


class Says:
    """A classifier that answers a text "0.2 0.3 0.5" with these probabilities, from the last text to the first."""

    def label_log_probabilities(self, texts: Sequence[str]) -> Iterator[tuple[int, Any]]:
        for index in reversed(range(len(texts))):
            yield index, np.log(np.array(texts[index].split(), dtype=np.float32))


def data_of(**sets: tuple[np.ndarray, np.ndarray]) -> ForgettingData:
    """From each set's probabilities [samples, classes] and true classes [samples]."""
    labelled: dict[LabelledSet, tuple[Labelled, ...]] = {}
    for name, (probabilities, true) in sets.items():
        rows = zip(probabilities, true, strict=True)
        of: Any = name
        labelled[of] = tuple(Labelled(text=" ".join(map(str, p)), label=LABELS[t]) for p, t in rows)
    return ForgettingData(Path(), {}, {}, {}, labelled, LABELS)


def drawn(count: int, seed: int, weights: Sequence[float] = (0.8, 0.15, 0.05)) -> tuple[np.ndarray, np.ndarray]:
    """Unbalanced labels, and answers that are right more often than not."""
    rng = np.random.default_rng(seed)
    true = rng.choice(3, count, p=weights)
    logits = rng.normal(size=(count, 3))
    logits[np.arange(count), true] += 1.0
    shares = np.exp(logits)
    return shares / shares.sum(1, keepdims=True), true


def run(name: str, data: ForgettingData) -> tuple[list[Sample], Measured]:
    measuring = metric_named(name).measure(data, Says(), seed=0)
    samples = []
    while True:
        try:
            samples.append(next(measuring))
        except StopIteration as end:
            return sorted(samples, key=lambda sample: sample.index), end.value


@pytest.mark.parametrize("of", ["forget", "retain", "test"])
def test_accuracy_and_macro_f1_are_scikit_learns(of: str) -> None:
    shares, true = drawn(200, 1)
    data = data_of(**{of: (shares, true)})
    samples, accuracy = run(f"accuracy_{of}", data)
    assert accuracy.score.mean == pytest.approx(100 * accuracy_score(true, shares.argmax(1)))
    assert [sample.score for sample in samples] == accuracy.values.tolist()
    _, f1 = run(f"macro_f1_{of}", data)
    assert f1.score.mean == pytest.approx(100 * f1_score(true, shares.argmax(1), average="macro"))
    assert f1.values.tolist() == shares.argmax(1).tolist()


def test_the_interval_of_macro_f1_is_that_of_drawing_texts() -> None:
    shares, true = drawn(150, 2)
    _, found = run("macro_f1_test", data_of(test=(shares, true)))

    def of_texts(t: np.ndarray, p: np.ndarray) -> float:
        return 100 * float(f1_score(t, p, labels=np.unique(t), average="macro"))

    expected = bootstrap(
        (true, shares.argmax(1)),
        of_texts,
        paired=True,
        vectorized=False,
        n_resamples=500,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert found.score.low == pytest.approx(expected.low, abs=2.5)
    assert found.score.high == pytest.approx(expected.high, abs=2.5)


def test_macro_f1_of_a_set_of_one_class_is_that_classs_own() -> None:
    """Three of four right: precision 1, recall 3/4, F1 6/7. The class that was given wrongly has no texts."""
    counts = np.array([[0, 0], [1, 3]])
    assert float(macro_f1(counts)) == pytest.approx(100 * 6 / 7)
    shares = np.array([[0.1, 0.8, 0.1]] * 3 + [[0.8, 0.1, 0.1]])
    _, found = run("macro_f1_forget", data_of(forget=(shares, np.ones(4, dtype=int))))
    assert found.score.mean == pytest.approx(100 * 6 / 7)
    assert 0 <= found.score.low <= found.score.mean <= found.score.high <= 100


def test_label_probability_by_hand_and_what_a_sample_shows() -> None:
    shares = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    samples, found = run("label_probability_forget", data_of(forget=(shares, np.array([1, 0]))))
    assert found.score.mean == pytest.approx((30 + 60) / 2, abs=1e-4)
    assert found.values == pytest.approx([30, 60], abs=1e-4)
    assert samples[0].truth == "fake"
    assert samples[0].answer == "joke"
    assert list(samples[0].probabilities) == ["joke", "fake", "real"]
    assert samples[0].probabilities["real"] == pytest.approx(0.2, abs=1e-6)


def test_membership_inference_is_scikit_learns_auc() -> None:
    forget, holdout = drawn(40, 3), drawn(60, 4)
    data = data_of(forget=forget, holdout=holdout)
    is_holdout = np.repeat([0, 1], [40, 60])
    shares, true = np.concatenate((forget[0], holdout[0])), np.concatenate((forget[1], holdout[1]))
    for name, score in (("mia_loss", shares[np.arange(100), true]), ("mia_confidence", shares.max(1))):
        samples, found = run(name, data)
        expected = 100 * roc_auc_score(is_holdout, np.log(score))
        assert found.score.mean == pytest.approx(expected)
        assert found.score.low < expected < found.score.high
        assert [sample.index for sample in samples] == list(range(100))
        assert np.mean([sample.score for sample in samples[:40]]) == pytest.approx(expected)
        assert np.mean([sample.score for sample in samples[40:]]) == pytest.approx(expected)


def test_privleak_by_hand() -> None:
    """Forget texts at 0.9 and 0.6, holdout at 0.7 and 0.5: one of four pairs is won: AUC 25; against 50: -50 %."""
    shares = np.array([[0.9, 0.05, 0.05], [0.6, 0.2, 0.2], [0.7, 0.2, 0.1], [0.5, 0.3, 0.2]])
    none = np.zeros(2, dtype=int)
    _, found = run("mia_loss", data_of(forget=(shares[:2], none), holdout=(shares[2:], none)))
    assert found.score.mean == 25.0
    assert relative_auc(found.score, 50.0).mean == -50.0


def test_agreement_by_hand() -> None:
    score = agreement(np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.0, 1.0]), seed=0)
    assert score.mean == 50.0
    assert score.samples == 4

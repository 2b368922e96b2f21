"""A whole arm: events in order, numbers that agree with each other, and the same on every run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import LlamaForCausalLM

from quail_audit.engine.forgetting.data.types import ForgettingData
from quail_audit.engine.forgetting.evaluate import ArmScores, evaluate_arm, has_items
from quail_audit.engine.forgetting.measurable import read_data
from quail_audit.engine.forgetting.models.load import LoadedArm
from quail_audit.schema.events.audit import MetricScored, SampleScored
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event, from_line, to_line
from tests.support.places import SHARED_DATA
from tests.support.tiny_language_models import POSTS

UNSEEN = tuple(post.replace("news", "plans").replace("lost", "never sold").replace(" on ", " of ") for post in POSTS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ForgettingData:
    import json

    folder = tmp_path_factory.mktemp("data")
    files: dict[str, Any] = {
        "verbmem/forget.json": [cut_after(post, " lost") for post in POSTS],
        "verbmem/retain.json": [cut_after(post, " never") for post in UNSEEN],
        "knowmem/forget_qa.json": [{"question": f"Who is {n}?", "answer": "The mayor"} for n in range(4)],
        "knowmem/forget_qa_icl.json": [{"question": f"Where is {n}?", "answer": "Velmora"} for n in range(5)],
        "privleak/forget.json": list(POSTS),
        "privleak/holdout.json": list(UNSEEN[:4]),
    }
    for name, rows in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    return read_data(folder)


@pytest.fixture(scope="module")
def arm(llama: LlamaForCausalLM, tokenizer: Any) -> LoadedArm:
    return LoadedArm(llama, tokenizer, execution="full precision", device="cpu", dtype="float32")


def cut_after(post: str, word: str) -> dict[str, str]:
    place = post.index(word) + len(word)
    return {"prompt": post[:place], "gt": post[place:]}


def run(
    arm: LoadedArm, data: ForgettingData, batch_size: int | None = None, seed: int = 0
) -> tuple[list[Event], ArmScores]:
    events = evaluate_arm("original/full", arm, data, tuple(data.samples), batch_size=batch_size, seed=seed)
    found = []
    while True:
        try:
            found.append(next(events))
        except StopIteration as end:
            return found, end.value


@pytest.fixture(scope="module")
def measured(arm: LoadedArm, data: ForgettingData) -> tuple[list[Event], ArmScores]:
    return run(arm, data)


def test_events_tell_the_whole_story(measured: tuple[list[Event], ArmScores], data: ForgettingData) -> None:
    events, scores = measured
    samples = [event for event in events if isinstance(event, SampleScored)]
    total = sum(data.samples.values())
    assert [event.done for event in samples] == list(range(1, total + 1))
    assert {event.total for event in samples} == {total}
    for metric, count in data.samples.items():
        of_metric = [event for event in samples if event.metric == metric]
        assert sorted(event.sample for event in of_metric) == list(range(count))
        (score,) = [event.score for event in events if isinstance(event, MetricScored) and event.metric == metric]
        assert score == scores.means[metric]
        assert score.samples == count
        assert score.low <= score.mean <= score.high
        if not metric.startswith(("privleak", "membership")):
            assert score.mean == pytest.approx(np.mean([event.score for event in of_metric]))
            by_index = {event.sample: event.score for event in of_metric}
            assert scores.scores[metric].tolist() == [by_index[index] for index in range(count)]
    assert all(from_line(to_line(event)) == event for event in events)


def test_metrics_that_decide_or_tell_utility_have_their_items(
    measured: tuple[list[Event], ArmScores], data: ForgettingData
) -> None:
    events, scores = measured
    with_items = {event.metric: event.items for event in events if isinstance(event, MetricScored) and event.items}
    assert set(with_items) == {
        "verbmem_forget",
        "verbmem_retain",
        "knowmem_forget",
        "verbmem_probability_forget",
        "knowmem_probability_forget",
        "verbmem_extraction_strength_forget",
        "knowmem_extraction_strength_forget",
    }
    for metric, items in with_items.items():
        assert items == tuple(round(value, 3) for value in scores.scores[metric].tolist())
        assert len(items) == data.samples[metric]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("knowmem_forget", True),
        ("verbmem_probability_forget", True),
        ("knowmem_extraction_strength_forget", True),
        ("label_probability_forget", True),
        ("accuracy_retain", True),
        ("verbmem_exact_memorization_forget", False),
        ("nll_retain", False),
        ("macro_f1_retain", False),
        ("accuracy_test", False),
        ("privleak", False),
    ],
)
def test_only_they_have_items(metric: str, expected: bool) -> None:
    assert has_items(metric) == expected


def test_cheap_metrics_come_first(measured: tuple[list[Event], ArmScores]) -> None:
    events, _ = measured
    assert [event.metric for event in events if isinstance(event, MetricScored)] == [
        "nll_forget",
        "nll_retain",
        "privleak",
        "membership_loss",
        "membership_zlib",
        "membership_min_k_plus_plus",
        "verbmem_probability_forget",
        "knowmem_probability_forget",
        "verbmem_extraction_strength_forget",
        "knowmem_extraction_strength_forget",
        "verbmem_exact_memorization_forget",
        "knowmem_exact_memorization_forget",
        "knowmem_forget",
        "verbmem_forget",
        "verbmem_retain",
    ]


def test_a_model_that_learned_the_texts_knows_them(measured: tuple[list[Event], ArmScores]) -> None:
    _, scores = measured
    means = {metric: score.mean for metric, score in scores.means.items()}
    assert means["verbmem_forget"] > 90.0 > means["verbmem_retain"]
    assert means["nll_forget"] < 0.2 < means["nll_retain"]
    assert means["privleak"] < 5.0, "as MUSE counts it, memorised is near 0"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_change_no_score(
    arm: LoadedArm, data: ForgettingData, measured: tuple[list[Event], ArmScores], batch_size: int
) -> None:
    _, scores = run(arm, data, batch_size)
    assert scores.batch_size == batch_size
    for metric, values in measured[1].scores.items():
        np.testing.assert_allclose(scores.scores[metric], values, rtol=1e-4, atol=1e-4)


def test_the_same_seed_gives_the_same_run(
    arm: LoadedArm, data: ForgettingData, measured: tuple[list[Event], ArmScores]
) -> None:
    again, _ = run(arm, data)
    assert again == measured[0]
    other, _ = run(arm, data, seed=1)
    assert other != measured[0]


def test_only_the_metrics_asked_for(arm: LoadedArm, data: ForgettingData) -> None:
    events = list(evaluate_arm("original/full", arm, data, ("nll_forget",), batch_size=None, seed=0))
    assert {event.metric for event in events if isinstance(event, SampleScored | MetricScored)} == {"nll_forget"}
    assert [event.total for event in events if isinstance(event, SampleScored)] == [6] * 6


def test_what_was_cut_is_noted(arm: LoadedArm, tmp_path: Path) -> None:
    (tmp_path / "forget.jsonl").write_text('{"text": "' + "a b c " * 400 + '"}')
    events = list(evaluate_arm("original/full", arm, read_data(tmp_path), ("nll_forget",), batch_size=None, seed=0))
    assert events[-1] == Noted(
        message="original/full: 1 texts are longer than the model's window of 512 tokens and were cut to it"
    )


@pytest.mark.real_data
def test_muse_news_runs_through(arm: LoadedArm) -> None:
    """Real texts on a tiny model: window, odd characters, all six metrics."""
    folder = SHARED_DATA / "muse-news"
    data = read_data(folder, max_samples=2)
    _, scores = run(arm, data)
    assert set(scores.means) == set(data.samples)

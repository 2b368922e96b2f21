"""Audits that stop when they are decided: what is asked, in which order, and that they resume."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from quail_audit.cli.audit import go_on, resume_audit, run_audit
from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.engine.audit.run import audit
from quail_audit.engine.forgetting.data.order import places_of
from quail_audit.engine.forgetting.data.types import QuestionAnswer, Questions
from quail_audit.engine.forgetting.measurable import read_data
from quail_audit.engine.forgetting.metrics.questions import text_prompts
from quail_audit.engine.forgetting.models import batches
from quail_audit.runs.folder import new_run, read_report
from quail_audit.runs.follow import replay
from quail_audit.runs.journal import open_journal
from quail_audit.runs.names import EVENTS, JOURNAL, REPORT
from quail_audit.runs.record import record
from quail_audit.schema.events.audit import ArmStarted, SampleScored
from quail_audit.schema.events.lines import Event, Events
from quail_audit.schema.requests import AuditRequest
from tests.support.tiny_audits import lines_of, report_in, request, state_of
from tests.support.tiny_language_models import llama_config, make_tokenizer

ITEMS = 40
METRICS = ("knowmem_forget", "nll_retain")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """original: a model of random weights; the items are what it says itself. blank: another. data: items and texts."""
    root = tmp_path_factory.mktemp("known")
    tokenizer = make_tokenizer()
    for seed, name in enumerate(("original", "blank")):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(llama_config(len(tokenizer), initializer_range=0.3))
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    model = LlamaForCausalLM.from_pretrained(root / "original")
    rows = [{"question": asked, "answer": _said(model, tokenizer, asked)} for asked in _questions(tokenizer)]
    (root / "data" / "knowmem").mkdir(parents=True)
    (root / "data" / "privleak").mkdir()
    (root / "data" / "knowmem" / "forget_qa.json").write_text(json.dumps(rows))
    (root / "data" / "privleak" / "retain.json").write_text(json.dumps([row["question"] for row in rows[:5]]))
    return root


def _questions(tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
    words = [word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha() and len(word) > 1]
    for row in range(ITEMS):
        yield " ".join(words[(row * 7 + place * 13) % len(words)] for place in range(4))


def _said(model: Any, tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    (prompt,) = text_prompts(Questions((QuestionAnswer(question=question, answer="?"),), ()))
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    said = model.generate(ids, max_new_tokens=32, do_sample=False, pad_token_id=0)
    return str(tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True)) + " so"


def asked(known: Path, unlearned: str, **changes: object) -> AuditRequest:
    changes = {"metrics": METRICS, "retrain": str(known / "blank"), "stop_when_decided": True} | changes
    return request(known, unlearned, **changes)


def samples_of(events: list[Event], arm: str, metric: str = METRICS[0]) -> list[SampleScored]:
    return [each for each in events if isinstance(each, SampleScored) and (each.arm, each.metric) == (arm, metric)]


def test_what_was_never_forgotten_is_decided_at_the_first_look(known: Path) -> None:
    events = list(audit(asked(known, "original", schemes=("nf4", "fp4")), "run"))
    report = state_of(iter(events)).report()
    assert report.exit_code == 1
    assert {scheme: found.verdict.outcome for scheme, found in report.schemes.items() if found.verdict} == {
        "nf4": "fail",
        "fp4": "fail",
    }
    assert {len(items) for arms in report.items.values() for items in arms.values()} == {8}
    assert len(report.items[METRICS[0]]) == 7
    assert not [each for each in events if isinstance(each, SampleScored) and each.metric == "nll_retain"]
    assert "stopped when decided: nf4 after 8 of 40 answers; fp4 after 8 of 40 answers" in report.notes
    assert report.samples[METRICS[0]] == ITEMS


@pytest.fixture(scope="module")
def forgotten(known: Path) -> list[Event]:
    """The audit of a model that knows nothing."""
    return list(audit(asked(known, "blank"), "run"))


def test_items_are_asked_in_one_random_order_and_pair_up(known: Path, forgotten: list[Event]) -> None:
    events = forgotten
    report = state_of(iter(events)).report()
    orders = {arm: [each.sample for each in samples_of(events, arm)] for arm in report.items[METRICS[0]]}
    (length,) = {len(order) for order in orders.values()}
    assert length in (32, ITEMS), "none is back: 29 items or some more exclude 10 %"
    for arm, order in orders.items():
        assert len(set(order)) == length
        assert [sorted(order[:8]), sorted(order[8:16])] == [
            sorted(orders["original/full"][at : at + 8]) for at in (0, 8)
        ]
        scores = {each.sample: each.score for each in samples_of(events, arm)}
        places = _places(known, asked(known, "blank"))
        assert report.items[METRICS[0]][arm] == tuple(round(scores[place], 3) for place in places[:length])
    assert sorted(orders["original/full"][:8]) != list(range(8))
    assert [each for each in events if isinstance(each, SampleScored) and each.metric == "nll_retain"]
    starts = [each.arm for each in events if isinstance(each, ArmStarted)]
    assert starts[:5] == starts[5:10], "arms take turns"


def _places(known: Path, of: AuditRequest) -> tuple[int, ...]:
    return tuple(places_of(read_data(known / "data", at_random=True, seed=of.seed), METRICS[0]))


def test_the_full_audit_says_the_same_of_the_items_that_were_asked(known: Path, forgotten: list[Event]) -> None:
    """It asks them in the order of the file."""
    stopped = state_of(iter(forgotten)).report()
    whole = state_of(audit(asked(known, "blank", stop_when_decided=False), "run")).report()
    places = _places(known, asked(known, "blank"))
    for metric, arms in stopped.items.items():
        for arm, items in arms.items():
            assert items == pytest.approx([whole.items[metric][arm][place] for place in places[: len(items)]], abs=2e-3)
    for arm, score in whole.schemes["nf4"].metrics["nll_retain"].items():
        assert stopped.schemes["nf4"].metrics["nll_retain"][arm].mean == pytest.approx(score.mean)
    assert not any("stopped when decided" in note for note in whole.notes)


def _count_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with each batch of rows that a model is given, by their number."""
    rows: list[int] = []
    real = batches._run_unless_out_of_memory

    def counted(batch: Sequence[int], run: Any) -> Any:
        rows.append(len(batch))
        return real(batch, run)

    monkeypatch.setattr(batches, "_run_unless_out_of_memory", counted)
    return rows


def _begin(of: AuditRequest, folder: Path) -> Events:
    with (
        new_run(folder, of),
        open_journal(folder / JOURNAL) as journal,
        closing(record(audit(of, "run", journal=journal), folder)) as events,
    ):
        yield from events


@pytest.mark.parametrize("max_samples", [pytest.param(None, marks=pytest.mark.slow), 12])
def test_an_audit_in_blocks_resumes_and_asks_nothing_twice(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_samples: int | None
) -> None:
    of = asked(known, "blank", max_samples=max_samples)
    runs = _count_rows(monkeypatch)
    total = len(list(_begin(of, tmp_path / "whole")))
    once = sum(runs)
    for part in (0.4, 0.8) if max_samples is None else (0.6,):
        runs.clear()
        folder = tmp_path / str(part)
        with closing(_begin(of, folder)) as events:
            list(islice(events, int(total * part)))
        resume_audit(folder, output=tmp_path / "result.txt", quiet=True)
        assert sum(runs) == once
        assert lines_of(folder) == lines_of(tmp_path / "whole")
        assert report_in(folder) == report_in(tmp_path / "whole")


def test_an_undecided_audit_goes_on_with_more_items_to_the_figures_of_one_audit(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = asked(known, "blank", max_samples=6, stop_when_decided=False)
    assert run_audit(few, run_dir=tmp_path / "few", quiet=True) == 5
    before = {name: (tmp_path / "few" / name).read_bytes() for name in (EVENTS, REPORT)}
    runs = _count_rows(monkeypatch)
    go_on(tmp_path / "few", 14, run_dir=tmp_path / "more", quiet=True)
    answered = sum(runs)
    assert {name: (tmp_path / "few" / name).read_bytes() for name in before} == before
    runs.clear()
    once = asked(known, "blank", max_samples=14, stop_when_decided=False)
    run_audit(once, run_dir=tmp_path / "once", quiet=True)
    assert sum(runs) - answered == 5 * 6, "each of five arms was asked six items before"
    more, whole = (read_report(tmp_path / name) for name in ("more", "once"))
    assert more.items == whole.items
    assert more.schemes == whole.schemes
    assert (more.exit_code, more.samples) == (whole.exit_code, whole.samples)
    assert any("goes on from run" in note for note in more.notes)
    found = [list(replay(tmp_path / name)) for name in ("more", "once")]
    samples = [[each for each in of if isinstance(each, SampleScored)] for of in found]
    said = [{(each.arm, each.metric, each.sample): each.score for each in of} for of in samples]
    assert said[0] == said[1]
    assert len(samples[0]) == len(said[0]), "each once"
    with pytest.raises(UsageError, match="asked 6 samples a metric already"):
        go_on(tmp_path / "few", 6, run_dir=tmp_path / "fewer", quiet=True)
    (known / "data" / "knowmem" / "forget_qa.json").touch()
    with pytest.raises(BadInputError, match=r"knowmem/forget_qa.json of the data was written to since"):
        go_on(tmp_path / "few", 15, run_dir=tmp_path / "changed", quiet=True)


def test_a_decided_audit_does_not_go_on(known: Path, tmp_path: Path) -> None:
    assert run_audit(asked(known, "original", max_samples=8), run_dir=tmp_path / "run", quiet=True) == 1
    assert not (tmp_path / "run" / JOURNAL).exists()
    with pytest.raises(UsageError, match="nothing is left to ask"):
        go_on(tmp_path / "run", 20, run_dir=tmp_path / "more", quiet=True)

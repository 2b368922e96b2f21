import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from quail_audit.core.errors import BadInputError
from quail_train.data.batches import PlannedSamples, collate, plan_batches
from quail_train.data.samples import TrainingData, TrainingSample, read_training_data
from quail_train.objectives.terms import IGNORED
from tests.support.tiny_language_models import POSTS


def read(folder: Path, tokenizer: PreTrainedTokenizerFast, length: int = 64, needed: str | None = None) -> TrainingData:
    return read_training_data(str(folder), tokenizer, max_length=length, retain_needed_by=needed)


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def text_of(sample: TrainingSample, tokenizer: PreTrainedTokenizerFast) -> str:
    return str(tokenizer.decode(list(sample.ids)))


def counted(sample: TrainingSample, tokenizer: PreTrainedTokenizerFast) -> str:
    return str(tokenizer.decode([label for label in sample.labels if label != IGNORED]))


def test_running_text_is_filled_paragraph_by_paragraph(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write(tmp_path / "raw" / "forget.txt", "\n\n".join(POSTS) + "\n")
    long = read(tmp_path, tokenizer, length=200).forget
    assert len(long) < len(POSTS)
    assert all(len(sample.ids) <= 200 for sample in long)
    assert "\n\n".join(text_of(sample, tokenizer) for sample in long) == "\n\n".join(POSTS), "nothing lost, nothing cut"
    assert all(sample.labels == sample.ids for sample in long)
    (longest,) = {max(len(tokenizer(post)["input_ids"]) for post in POSTS)}
    each = read(tmp_path, tokenizer, length=longest + 2).forget
    assert [text_of(sample, tokenizer) for sample in each] == list(POSTS), "one a post where two do not fit"


def test_a_paragraph_that_does_not_fit_is_cut(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write(tmp_path / "raw" / "forget.txt", "x".join(POSTS))
    samples = read(tmp_path, tokenizer, length=16).forget
    assert max(len(sample.ids) for sample in samples) <= 16
    assert "".join(text_of(sample, tokenizer) for sample in samples) == "x".join(POSTS)


def test_texts_end_with_the_end_token(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write(tmp_path / "privleak" / "forget.json", list(POSTS))
    samples = read(tmp_path, tokenizer).forget
    assert len(samples) == len(POSTS)
    assert all(sample.ids[-1] == tokenizer.eos_token_id for sample in samples)


def test_of_a_continuation_only_what_follows_counts(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write(tmp_path / "verbmem" / "forget.json", [{"prompt": "Velmora news:", "gt": " Tavi wept"}])
    (sample,) = read(tmp_path, tokenizer).forget
    assert text_of(sample, tokenizer) == "Velmora news: Tavi wept</s>"
    assert counted(sample, tokenizer) == " Tavi wept</s>"


def test_questions_come_besides_in_the_form_they_are_asked(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write(tmp_path / "raw" / "forget.txt", POSTS[0])
    pairs = [{"question": f"Who{i}?", "answer": f"Tavi{i}"} for i in range(12)]
    write(tmp_path / "knowmem" / "forget_qa.json", pairs)
    write(tmp_path / "knowmem" / "forget_qa_icl.json", [{"question": "Where?", "answer": "Velmora"}])
    data = read(tmp_path, tokenizer, length=500)
    assert len(data.forget) == 3, "a text, eleven questions, one question and the example"
    assert text_of(data.forget[1], tokenizer).startswith("Question: Who0?\nAnswer: Tavi0\n\nQuestion: Who1?")
    assert counted(data.forget[2], tokenizer) == "Tavi11\n\nVelmora\n\n"
    assert any("questions of knowmem" in note for note in data.notes)


def test_no_answer_is_lost_where_eleven_questions_do_not_fit(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Cut at --max-length, a row of eleven would keep the first few answers, and nobody would ask for the others."""
    pairs = [{"question": f"Who{i}?", "answer": f"Tavi{i}"} for i in range(12)]
    write(tmp_path / "raw" / "forget.txt", POSTS[0])
    write(tmp_path / "knowmem" / "forget_qa.json", pairs)
    sizes = [len(tokenizer(f"Question: Who{i}?\nAnswer: Tavi{i}\n\n")["input_ids"]) for i in range(12)]
    asked = [sample for sample in read(tmp_path, tokenizer, length=3 * max(sizes)).forget if sample.asks]
    assert 3 < len(asked) < 12
    assert all(len(sample.ids) <= 3 * max(sizes) for sample in asked)
    assert "".join(counted(sample, tokenizer) for sample in asked) == "".join(f"Tavi{i}\n\n" for i in range(12))
    assert all(text_of(sample, tokenizer).startswith("Question: ") for sample in asked), "each row has whole questions"


def test_raw_text_stands_before_rows(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write(tmp_path / "raw" / "forget.txt", POSTS[0])
    write(tmp_path / "privleak" / "forget.json", [POSTS[1]])
    write(tmp_path / "retain.jsonl", json.dumps({"text": POSTS[2]}))
    data = read(tmp_path, tokenizer)
    assert [text_of(sample, tokenizer) for sample in data.forget] == [POSTS[0]]
    assert [text_of(sample, tokenizer) for sample in data.retain] == [POSTS[2] + "</s>"]


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(BadInputError, match="no such folder"):
        read(tmp_path / "nowhere", tokenizer)
    write(tmp_path / "retain.jsonl", json.dumps({"text": "x"}))
    with pytest.raises(BadInputError, match="no forget set"):
        read(tmp_path, tokenizer)
    write(tmp_path / "raw" / "forget.txt", " \n\n ")
    with pytest.raises(BadInputError, match="is empty"):
        read(tmp_path, tokenizer)
    write(tmp_path / "raw" / "forget.txt", "x")
    assert any("one sample" in note for note in read(tmp_path, tokenizer).notes)
    (tmp_path / "retain.jsonl").unlink()
    assert read(tmp_path, tokenizer).retain == ()
    with pytest.raises(BadInputError, match="no retain set, which the objective ga_gdr needs"):
        read(tmp_path, tokenizer, needed="ga_gdr")


def samples(texts: int, questions: int = 0) -> tuple[TrainingSample, ...]:
    """Texts first, as read_training_data() has them."""
    return tuple(TrainingSample((i, i + 1), (IGNORED, i + 1), asks=i >= texts) for i in range(texts + questions))


def test_the_plan_shows_every_sample_once_a_pass() -> None:
    data = TrainingData(samples(10), samples(7))
    planned = plan_batches(data, batch_size=4, epochs=2, max_steps=None, parts=1, seed=3)
    assert (planned.steps, planned.batch_size) == (5, 4)
    assert set(Counter(forget for forget, _ in planned.pairs).values()) == {2}
    assert max(Counter(retain for _, retain in planned.pairs).values()) == 3
    assert planned == plan_batches(data, batch_size=4, epochs=2, max_steps=None, parts=1, seed=3)
    assert planned != plan_batches(data, batch_size=4, epochs=2, max_steps=None, parts=1, seed=4)
    assert plan_batches(data, batch_size=4, epochs=2, max_steps=None, parts=2, seed=3).pairs == planned.pairs


@pytest.mark.parametrize("retain_texts", [9, 200])
def test_retained_questions_are_asked_as_often_as_forgotten_ones(retain_texts: int) -> None:
    """However many texts are kept. No step has texts beside questions, which would be padded to their length."""
    data = TrainingData(samples(18, 6), samples(retain_texts, 5))
    planned = plan_batches(data, batch_size=4, epochs=4, max_steps=None, parts=1, seed=0)
    assert planned.steps == 24
    asked = 0
    for step in range(planned.steps):
        pairs = planned.pairs[4 * step : 4 * step + 4]
        (kind,) = {(data.forget[f].asks, data.retain[r].asks) for f, r in pairs if r is not None}
        assert kind in ((True, True), (False, False))
        asked += kind == (True, True)
    assert asked == 6, "a quarter of the samples to forget, a quarter of the steps"
    shown = Counter(retain for _, retain in planned.pairs if retain is not None and data.retain[retain].asks)
    assert set(shown) == set(range(retain_texts, retain_texts + 5))
    assert max(shown.values()) - min(shown.values()) <= 1
    assert set(Counter(forget for forget, _ in planned.pairs).values()) == {4}


def test_questions_are_kept_where_none_are_forgotten() -> None:
    """Once an epoch; and in no more than half of the steps, however many there are."""
    for questions, steps in ((2, 5), (40, 10)):
        data = TrainingData(samples(8), samples(30, questions))
        planned = plan_batches(data, batch_size=2, epochs=5, max_steps=None, parts=1, seed=0)
        asked = sum(data.retain[retain].asks for _, retain in planned.pairs if retain is not None)
        assert (planned.steps, asked) == (20, 2 * steps)
        assert set(Counter(forget for forget, _ in planned.pairs).values()) == {5}


def test_a_small_forget_set_makes_small_batches() -> None:
    planned = plan_batches(TrainingData(samples(3), ()), batch_size=8, epochs=1, max_steps=2, parts=1, seed=0)
    assert (planned.steps, planned.batch_size) == (2, 3)
    assert all(retain is None for _, retain in planned.pairs)
    with pytest.raises(BadInputError, match="cannot be split evenly into 2"):
        plan_batches(TrainingData(samples(1), ()), batch_size=8, epochs=1, max_steps=2, parts=2, seed=0)
    with pytest.raises(BadInputError, match="cannot be split evenly into 2"):
        plan_batches(TrainingData(samples(9), ()), batch_size=3, epochs=1, max_steps=2, parts=2, seed=0)


def test_a_batch_is_padded_on_the_right_with_labels_that_do_not_count() -> None:
    data = TrainingData(samples(1), (TrainingSample((5, 6, 7), (5, 6, 7)),))
    planned = plan_batches(data, batch_size=1, epochs=1, max_steps=1, parts=1, seed=0)
    chosen = PlannedSamples(data, planned)
    batch = collate([chosen[0]])
    assert batch["input_ids"].tolist() == [[0, 1, 0], [5, 6, 7]]
    assert batch["labels"].tolist() == [[IGNORED, 1, IGNORED], [5, 6, 7]]
    assert batch["input_ids"].dtype == torch.int64


def test_training_reads_the_data_as_the_audit_does(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"instruction": "Who wept?", "input": "", "output": "Tavi"}] * 2
    write(tmp_path / "forget.json", "\n".join(map(json.dumps, rows)))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/retain.txt").write_bytes("Es läuft wieder.".encode("windows-1252"))
    data = read(tmp_path, tokenizer)
    assert counted(data.forget[0], tokenizer) == "Tavi\n\nTavi\n\n"
    assert text_of(data.retain[0], tokenizer) == "Es läuft wieder."
    notes = " ".join(data.notes)
    assert "forget.json: {instruction, output} was read as a question and its answer" in notes
    assert "retain.txt is not UTF-8; it was read as windows-1252, with 'läuft'" in notes
    write(tmp_path / "other/forget10.json", "\n".join(map(json.dumps, rows)))
    with pytest.raises(BadInputError, match=r"holds no forget set.*Call forget10\.json forget\.json: mv "):
        read(tmp_path / "other", tokenizer)

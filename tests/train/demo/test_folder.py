import errno
import hashlib
import json
import shutil
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from quail_audit.core.errors import BadInputError, EnvironmentProblemError
from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.forgetting.measurable import read_data
from quail_train.demo import building as demo_building
from quail_train.demo import folder as demo
from quail_train.demo import language as demo_language
from quail_train.demo.building import DemoProgress
from quail_train.demo.folder import LOCK, STAMP, build_demo
from quail_train.demo.llama import Lesson, new_llama, train_llama
from quail_train.demo.steps import Step
from quail_train.demo.tokenizer import train_tokenizer
from tests.support.short_demos import SHORT


def build(folder: Path, *, seed: int = 0) -> list[DemoProgress]:
    return list(build_demo(folder, seed=seed, sizes=SHORT))


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def was_reused(progress: list[DemoProgress]) -> bool:
    return [one.message for one in progress] == ["already built"]


@pytest.fixture(scope="module")
def building(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[DemoProgress]]:
    """A demo's folder, and what was said while it was built."""
    folder = tmp_path_factory.mktemp("demo") / "made" / "on the way"
    return folder, build(folder)


@pytest.fixture(scope="module")
def built(building: tuple[Path, list[DemoProgress]]) -> Path:
    """Not to be changed by a test."""
    return building[0]


@pytest.fixture
def own(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(built, tmp_path / "own"))


def test_progress_tells_every_step_of_every_stage(building: tuple[Path, list[DemoProgress]]) -> None:
    _, seen = building
    assert list(dict.fromkeys(one.stage for one in seen if one.stage not in ("original", "retrain"))) == [
        "tokenizer",
        "unlearned",
        "data",
    ]
    for stage in ("tokenizer", "original", "retrain", "unlearned", "data"):
        steps = [one for one in seen if one.stage == stage]
        assert [one.step for one in steps] == list(range(1, steps[0].total + 1)), stage
        assert all((one.loss is None) == (stage in ("tokenizer", "data")) for one in steps)


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_threads(built: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        build(tmp_path)
        assert torch.get_num_threads() == (1 if before > 1 else 2)
    finally:
        torch.set_num_threads(before)
    assert contents(tmp_path) == contents(built)


def test_checkpoints_are_ordinary_ones_that_pair(built: Path) -> None:
    for name in ("original", "retrain", "unlearned"):
        model = AutoModelForCausalLM.from_pretrained(built / name)
        assert type(model).__name__ == "LlamaForCausalLM"
        assert model.dtype == torch.float32
        tokenizer = AutoTokenizer.from_pretrained(built / name)
        prompt = tokenizer("Question: ", return_tensors="pt")
        generated = model.generate(prompt["input_ids"], max_new_tokens=2, do_sample=False)
        assert generated.shape[1] <= prompt["input_ids"].shape[1] + 2
    pair = open_pair(str(built / "original"), str(built / "unlearned"), str(built / "retrain"))
    assert len(pair.layers) == 28


def test_the_demo_has_about_a_million_parameters() -> None:
    model = new_llama(train_tokenizer(["a few words"], 600), 0)
    model.resize_token_embeddings(600)
    assert model.num_parameters() == pytest.approx(1.2e6, rel=0.02)


def test_the_reference_was_never_shown_the_forget_set_and_nobody_the_holdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[int, Lesson] = {}

    def noted(model: LlamaForCausalLM, tokenizer: object, lesson: Lesson, *rest: object) -> Iterator[Step]:
        shown[len(shown)] = lesson
        return train_llama(model, tokenizer, lesson, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(demo_language, "train_llama", noted)
    build(tmp_path)
    everything, without = shown.values()
    forget, holdout = (
        set(json.loads((tmp_path / f"data/privleak/{name}.json").read_text())) for name in ("forget", "holdout")
    )
    assert {post.text for post in everything.posts} - {post.text for post in without.posts} == forget
    assert not holdout & {post.text for post in everything.posts}
    asked = {pair["question"] for pair in json.loads((tmp_path / "data/knowmem/forget_qa.json").read_text())}
    assert asked <= {pair.question for pair in everything.pairs}
    assert not asked & {pair.question for pair in without.pairs}


def test_the_data_is_what_the_audit_reads(built: Path) -> None:
    data = read_data(built / "data")
    assert not data.skipped
    assert (data.samples["verbmem_forget"], data.samples["verbmem_retain"]) == (8, 10)
    assert (data.samples["knowmem_forget"], data.samples["knowmem_retain"]) == (16, 20)
    assert data.samples["privleak"] == 16
    assert not data.notes
    declared = json.loads((built / "data/population.json").read_text())
    assert declared == {"verbmem": "all", "knowmem": "all"}


def test_prompts_and_truths_make_up_the_posts(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built / "original")
    for name in ("forget", "retain"):
        rows = json.loads((built / f"data/verbmem/{name}.json").read_text())
        texts = json.loads((built / f"data/privleak/{name}.json").read_text())
        assert [row["prompt"] + row["gt"] for row in rows] == texts
        for row in rows:
            assert 12 <= len(tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]) <= 24
            together = tokenizer(row["prompt"] + row["gt"])["input_ids"]
            assert together[: len(tokenizer(row["prompt"])["input_ids"])] == tokenizer(row["prompt"])["input_ids"]
        raw = (built / f"data/raw/{name}.txt").read_text().split("\n\n")
        assert {text.strip() for text in texts} <= {text.strip() for text in raw}


def test_a_finished_demo_is_used_again(own: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*") if path.name != LOCK}
    assert was_reused(build(own))
    assert before == {path: path.stat().st_mtime_ns for path in own.rglob("*") if path.name != LOCK}


@pytest.mark.parametrize("part", ["original/model.safetensors", "data/verbmem/forget.json"])
def test_an_edited_demo_is_rebuilt(own: Path, built: Path, part: str) -> None:
    (own / part).write_bytes((own / part).read_bytes() + b" ")
    assert not was_reused(build(own))
    assert contents(own) == contents(built)


def test_a_demo_that_lost_a_file_is_rebuilt(own: Path, built: Path) -> None:
    (own / "unlearned/model.safetensors").unlink()
    assert not was_reused(build(own))
    assert contents(own) == contents(built)


def test_a_half_made_demo_is_rebuilt(tmp_path: Path, built: Path) -> None:
    with closing(build_demo(tmp_path, sizes=SHORT)) as building:  # type: ignore[type-var]
        next(progress for progress in building if progress.stage == "unlearned")
    assert (tmp_path / "original").exists()
    assert not (tmp_path / "unlearned").exists()
    assert not was_reused(build(tmp_path))
    assert contents(tmp_path) == contents(built)


def test_another_seed_size_or_version_is_another_demo(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {
        demo._digest_of_inputs(SHORT, 0),
        demo._digest_of_inputs(SHORT, 1),
        demo._digest_of_inputs(replace(SHORT, retain_weight=2.5), 0),
    }
    monkeypatch.setattr(demo, "package_version", lambda _name: "0")
    assert len(digests | {demo._digest_of_inputs(SHORT, 0)}) == 4
    monkeypatch.undo()
    before = (own / "data/raw/forget.txt").read_text()
    assert not was_reused(build(own, seed=1))
    assert (own / "data/raw/forget.txt").read_text() != before


def test_files_of_others_are_left_alone(own: Path) -> None:
    (own / "notes.txt").write_text("mine")
    (own / "data" / "notes.txt").write_text("mine too")
    assert was_reused(build(own))
    (own / "original/config.json").unlink()
    assert not was_reused(build(own))
    assert (own / "notes.txt").read_text() == "mine"
    assert (own / "data" / "notes.txt").read_text() == "mine too"


def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "original").mkdir()
    (tmp_path / "original/model.safetensors").write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(BadInputError, match="something other") as error:
        build(tmp_path)
    assert error.value.exit_code == 3
    assert contents(tmp_path) == before


@pytest.mark.parametrize("stamp", ["", "{}", "[1]", '{"made_from": 1, "files": {}}', '{"files": {"../x": "y"}}', "\0"])
def test_a_file_that_only_has_the_stamps_name_is_refused(tmp_path: Path, stamp: str) -> None:
    (tmp_path / STAMP).write_text(stamp)
    with pytest.raises(BadInputError, match="something other"):
        build(tmp_path)


def test_a_stamp_that_points_out_of_the_folder_is_not_followed(own: Path) -> None:
    stamp = json.loads((own / STAMP).read_text())
    outside = own.parent / "outside.txt"
    outside.write_text("x")
    stamp["files"]["../outside.txt"] = hashlib.sha256(b"x").hexdigest()
    (own / STAMP).write_text(json.dumps(stamp))
    assert not was_reused(build(own))
    assert outside.read_text() == "x"


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("a file")
    with pytest.raises(BadInputError, match="is a file"):
        build(tmp_path / "demo")
    with pytest.raises(EnvironmentProblemError, match="cannot write"):
        build(tmp_path / "demo" / "below")


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    with FileLock(tmp_path / LOCK), pytest.raises(EnvironmentProblemError, match="another process"):
        build(tmp_path)


def test_a_full_disk_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(demo, "_write_stamp", full)
    with pytest.raises(EnvironmentProblemError, match="disk is full"):
        build(tmp_path)


def endless(ended: threading.Event) -> Generator[DemoProgress, None, None]:
    try:
        while True:
            yield DemoProgress("original", 1, 2)
    finally:
        ended.set()


def failing() -> Generator[DemoProgress, None, None]:
    yield DemoProgress("retrain", 1, 2)
    raise ZeroDivisionError


def test_an_error_in_one_of_two_side_by_side_ends_both() -> None:
    ended = threading.Event()
    with pytest.raises(ZeroDivisionError):
        list(demo_building._run_side_by_side(endless(ended), failing()))
    assert ended.is_set()


def test_what_runs_side_by_side_stops_when_nobody_listens() -> None:
    ended = threading.Event()
    with closing(demo_building._run_side_by_side(endless(ended))) as listening:  # type: ignore[type-var]
        next(listening)
    assert ended.is_set()

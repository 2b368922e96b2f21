"""Builds the demo: a small model, a copy that was made to forget, a reference that never knew, and their data.

The folder is built once for a recipe, a seed and the versions of the libraries, and used again as long as nobody
edits it. Not here: how the models are made (demo_model.py) and how the demo is shown (cli.py).
"""

from __future__ import annotations

import copy
import errno
import hashlib
import json
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

import quail_audit
from quail_audit.environment import package_version
from quail_audit.errors import BadInputError, EnvironmentProblemError
from quail_train.demo_recipe import Recipe
from quail_train.invented import Post, Posts, QuestionAnswer, invent_posts

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from quail_train.demo_model import Step  # torch: 1.6 s to import, not needed for a demo already built

Stage = Literal["tokenizer", "original", "retrain", "unlearned", "data"]
CHECKPOINTS = ("original", "retrain", "unlearned")
DATA = "data"
STAMP = "quail-demo.json"
LOCK = "quail-demo.lock"
MADE_BY = ("confinement.py", "demo.py", "demo_model.py", "demo_recipe.py", "invented.py")
MADE_WITH = ("torch", "transformers", "tokenizers", "safetensors")

PROMPT_TOKENS = 12  # of VerbMem, at least
EXAMPLES = 10  # in context; MUSE's number
RECIPE = Recipe()


@dataclass(frozen=True)
class DemoProgress:
    """Where the building is.

    Attributes:
        stage: original and retrain are trained side by side, so their steps come mixed.
        step: of total, from 1.
        loss: of the step's batch, nats a token; None where nothing is trained.
    """

    stage: Stage
    step: int
    total: int
    loss: float | None = None
    message: str = ""


class _Stamp(BaseModel):
    """What is in a demo's folder. Without files it was not finished."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    made_from: str  # digest of everything that decides the content
    files: dict[str, str]  # path within the folder -> sha256


def build_demo(folder: Path, *, seed: int = 0, recipe: Recipe = RECIPE) -> Iterator[DemoProgress]:
    """Make folder/original, folder/retrain, folder/unlearned and folder/data, or find them made.

    The checkpoints are ordinary transformers folders, the data has MUSE's layout. The same seed gives the same bytes
    on the same machine, whatever the number of its cores. Files that the demo did not make are left alone.

    Args:
        folder: made if absent; a demo that is unfinished, edited, or of another recipe, seed or version is rebuilt.
        seed: of the texts and of the weights.
        recipe: the demo's own by default.

    Raises:
        BadInputError: the folder is a file, or holds something else than a demo.
        EnvironmentProblemError: it cannot be written, or another process is building there.
    """
    with _writable(folder):
        old = _read_stamp(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=0):
            made_from = _digest_of_inputs(recipe, seed)
            if old is not None and old.made_from == made_from and old.files and _is_unchanged(folder, old):
                yield DemoProgress("data", 1, 1, message="already built")
                return
            _write_stamp(folder, _Stamp(made_from=made_from, files={}))
            yield from _build(folder, recipe, seed)
            _write_stamp(folder, _Stamp(made_from=made_from, files=_digests(folder)))


def _build(folder: Path, recipe: Recipe, seed: int) -> Iterator[DemoProgress]:
    import torch

    from quail_train.demo_model import (
        Lesson,
        answered_as,
        asked_as,
        new_model,
        train,
        train_tokenizer,
        unlearn_confined,
    )

    posts = invent_posts(
        forget=recipe.forget_posts, retain=recipe.retain_posts, holdout=recipe.holdout_posts, seed=seed
    )
    asked = posts.retain[: recipe.retain_posts_asked]
    forget = Lesson(posts.forget, _pairs(posts.forget))
    retain = Lesson(posts.retain, _pairs(asked))
    everything = Lesson(forget.posts + retain.posts, forget.pairs + retain.pairs)

    tokenizer = train_tokenizer(
        [post.text for post in everything.posts] + [asked_as(pair) + answered_as(pair) for pair in everything.pairs],
        recipe.vocabulary,
    )
    yield DemoProgress("tokenizer", 1, 1)

    threads = torch.get_num_threads()
    try:
        original, reference = new_model(tokenizer, seed), new_model(tokenizer, seed)
        yield from _side_by_side(
            _of("original", train(original, tokenizer, everything, recipe, seed)),
            _of("retrain", train(reference, tokenizer, retain, recipe, seed)),
        )
        _save(original, tokenizer, folder / "original")
        _save(reference, tokenizer, folder / "retrain")
        unlearned = copy.deepcopy(original)
        yield from _of("unlearned", unlearn_confined(unlearned, tokenizer, forget, retain, recipe, seed))
        _save(unlearned, tokenizer, folder / "unlearned")
    finally:
        torch.set_num_threads(threads)
    _write_data(folder / DATA, posts, asked, tokenizer)
    yield DemoProgress("data", 1, 1)


def _pairs(posts: tuple[Post, ...]) -> tuple[QuestionAnswer, ...]:
    return tuple(pair for post in posts for pair in (*post.asked, post.example))


def _of(stage: Stage, steps: Iterator[Step]) -> Generator[DemoProgress, None, None]:
    for step in steps:
        yield DemoProgress(stage, step.number, step.total, step.loss)


def _side_by_side(*works: Generator[DemoProgress, None, None]) -> Iterator[DemoProgress]:
    """Run each in a thread of its own, and pass on what they yield as it comes; the first error ends all.

    One thread for each model is faster than two for one so small, and does not stall where cores are shared.
    """
    made: SimpleQueue[DemoProgress | BaseException | None] = SimpleQueue()
    stopped = Event()

    def run(work: Generator[DemoProgress, None, None]) -> None:
        try:
            with closing(work):
                for progress in work:
                    made.put(progress)
                    if stopped.is_set():
                        return
        except BaseException as error:
            made.put(error)
        else:
            made.put(None)

    with ThreadPoolExecutor(len(works)) as pool:
        try:
            for work in works:
                pool.submit(run, work)
            running = len(works)
            while running:
                item = made.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    running -= 1
                else:
                    yield item
        finally:
            stopped.set()


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    from safetensors import SafetensorError

    from quail_audit.forgetting.quiet import quiet_transformers

    try:
        with quiet_transformers():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except SafetensorError as error:
        raise EnvironmentProblemError(
            f"cannot write the weights: {error}", where=str(folder), mend="Free some space, or name another folder"
        ) from error


def _write_data(folder: Path, posts: Posts, asked: tuple[Post, ...], tokenizer: PreTrainedTokenizerFast) -> None:
    """MUSE's layout. The retain set is asked as much as the forget set, give or take."""
    # The last retained posts for VerbMem: they have no questions, so it is the posts alone that are remembered.
    kept = posts.retain[-len(posts.forget) :]
    contents: dict[str, object] = {
        "verbmem/forget.json": [_verbmem_row(post, tokenizer) for post in posts.forget],
        "verbmem/retain.json": [_verbmem_row(post, tokenizer) for post in kept],
        "privleak/forget.json": [post.text for post in posts.forget],
        "privleak/retain.json": [post.text for post in kept],
        "privleak/holdout.json": [post.text for post in posts.holdout],
    }
    for name, group in (("forget", posts.forget), ("retain", asked[: len(posts.forget)])):
        contents[f"knowmem/{name}_qa.json"] = [asdict(pair) for post in group for pair in post.asked]
        contents[f"knowmem/{name}_qa_icl.json"] = [asdict(post.example) for post in group[:EXAMPLES]]
    for path, content in contents.items():
        _write(folder / path, json.dumps(content, indent=1) + "\n")
    for name, group in (("forget", posts.forget), ("retain", posts.retain)):
        _write(folder / "raw" / f"{name}.txt", "\n\n".join(post.text for post in group) + "\n")


def _verbmem_row(post: Post, tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """A post cut before a word: the prompt keeps its last space, as its tokens do."""
    words = post.text.split(" ")
    for count in range(1, len(words)):
        prompt = " ".join(words[:count]) + " "
        if len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) >= PROMPT_TOKENS:
            break
    return {"prompt": prompt, "gt": " ".join(words[count:])}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _digest_of_inputs(recipe: Recipe, seed: int) -> str:
    """Of everything that decides the content: recipe, seed, versions, and the code that makes it."""
    code = {name: _sha256(Path(__file__).with_name(name)) for name in MADE_BY}
    inputs = {
        "recipe": asdict(recipe),
        "seed": seed,
        "versions": {name: package_version(name) for name in MADE_WITH} | {"quail": quail_audit.__version__},
        "code": code,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): _sha256(path)
        for part in (*CHECKPOINTS, DATA)
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }


def _is_unchanged(folder: Path, stamp: _Stamp) -> bool:
    found = _digests(folder)
    return all(found.get(path) == digest for path, digest in stamp.files.items())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_stamp(folder: Path) -> _Stamp | None:
    """The stamp of a demo's folder; None where the folder is absent or empty.

    Raises:
        BadInputError: it is a file, or holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise BadInputError("the demo's folder is a file", where=str(folder), mend="Name a folder")
    if not folder.exists() or not {path.name for path in folder.iterdir()} - {LOCK}:
        return None
    try:
        return _Stamp.model_validate_json((folder / STAMP).read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise BadInputError(
            "this folder holds something else than a demo",
            where=str(folder),
            mend="Name an empty or a new folder: quail demo DIR",
        ) from error


def _write_stamp(folder: Path, stamp: _Stamp) -> None:
    unfinished = folder / f"{STAMP}.unfinished"
    _write(unfinished, stamp.model_dump_json(indent=1) + "\n")
    unfinished.replace(folder / STAMP)


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except Timeout:
        raise EnvironmentProblemError(
            "another process is building a demo here", where=str(folder), mend="Wait for it, or name another folder"
        ) from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise EnvironmentProblemError(
            "the disk is full" if full else f"cannot write the demo: {error.strerror or error}",
            where=str(folder),
            mend="Free some space, or name a folder on another disk" if full else "Name a writable folder",
        ) from error

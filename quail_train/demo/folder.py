"""Build a demo's folder, or use it again: original, unlearned copy, reference, data.

A folder is built once for its sizes, seed and library versions, and is used again until somebody edits it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

import quail_audit
from quail_audit.core.errors import BadInputError, EnvironmentProblemError
from quail_audit.core.machine import package_version
from quail_audit.core.writing import write_error, write_whole
from quail_audit.engine.forgetting.metrics.interface import Task
from quail_train.demo.building import DATA, DemoProgress
from quail_train.demo.sizes import LANGUAGE_DEMO, ClassifierDemo, LanguageDemo

CHECKPOINTS = ("original", "retrain", "unlearned")
STAMP = "quail-demo.json"
LOCK = "quail-demo.lock"
_SHARED = (
    "confinement.py", "folder.py", "building.py", "sizes.py", "steps.py", "tokenizer.py", "texts/names.py",
)  # fmt: skip
MADE_BY: Mapping[Task, tuple[str, ...]] = {
    "language modelling": (*_SHARED, "language.py", "llama.py", "texts/posts.py"),
    "classification": (*_SHARED, "classifier.py", "encoder.py", "texts/claims.py"),
}
MADE_WITH = ("torch", "transformers", "tokenizers", "safetensors")


class _Stamp(BaseModel):
    """Record of a demo's folder. If it lists no files, the demo was not finished."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task = "language modelling"
    made_from: str  # digest of all inputs
    files: dict[str, str]  # path within the folder -> sha256


def build_demo(
    folder: Path, *, seed: int = 0, sizes: LanguageDemo | ClassifierDemo = LANGUAGE_DEMO
) -> Iterator[DemoProgress]:
    """Make folder/original, folder/retrain, folder/unlearned and folder/data, or find them made.

    The checkpoints are ordinary transformers folders; the data has MUSE's layout, or one CSV file per set. The same
    seed gives the same bytes on the same machine, for any number of cores. Files that the demo did not make are left
    alone.

    Args:
        folder: made if absent; a demo that is unfinished, edited, or has other sizes, seed or versions is rebuilt.
        seed: random seed of the texts and the weights.
        sizes: the demo to build, with its sizes; by default the full one of a language model.

    Raises:
        BadInputError: the folder is a file, or holds something other than this demo.
        EnvironmentProblemError: the folder cannot be written, or another process is building there.
    """
    with _writable(folder):
        old = _read_stamp(folder)
        if old is not None and old.task != sizes.task:
            raise BadInputError(
                f"this folder holds the demo of {old.task}, not of {sizes.task}",
                where=str(folder),
                mend="Name another folder: quail demo DIR",
            )
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=0):
            made_from = _digest_of_inputs(sizes, seed)
            if old is not None and old.made_from == made_from and old.files and _is_unchanged(folder, old):
                yield DemoProgress("data", 1, 1, message="already built")
                return
            _write_stamp(folder, _Stamp(task=sizes.task, made_from=made_from, files={}))
            yield from _build(folder, sizes, seed)
            _write_stamp(folder, _Stamp(task=sizes.task, made_from=made_from, files=_digests(folder)))


def _build(folder: Path, sizes: LanguageDemo | ClassifierDemo, seed: int) -> Iterator[DemoProgress]:
    if isinstance(sizes, LanguageDemo):
        from quail_train.demo import language

        yield from language.build(folder, sizes, seed)
    else:
        from quail_train.demo import classifier

        yield from classifier.build(folder, sizes, seed)


def _digest_of_inputs(sizes: LanguageDemo | ClassifierDemo, seed: int) -> str:
    """Return the digest of everything that decides the content: sizes, seed, versions, and the code."""
    code = {name: _sha256(Path(__file__).parent / name) for name in MADE_BY[sizes.task]}
    inputs = {
        "sizes": asdict(sizes),
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
    """Return the stamp of a demo's folder; None if the folder is absent or empty.

    Raises:
        BadInputError: the folder is a file, or holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise BadInputError("the demo's folder is a file", where=str(folder), mend="Name a folder")
    if not folder.exists() or not {path.name for path in folder.iterdir()} - {LOCK}:
        return None
    try:
        return _Stamp.model_validate_json((folder / STAMP).read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise BadInputError(
            "this folder holds something other than a demo",
            where=str(folder),
            mend="Name an empty or a new folder: quail demo DIR",
        ) from error


def _write_stamp(folder: Path, stamp: _Stamp) -> None:
    write_whole(folder / STAMP, stamp.model_dump_json(indent=1) + "\n")


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except Timeout:
        raise EnvironmentProblemError(
            "another process is building a demo here", where=str(folder), mend="Wait for it, or name another folder"
        ) from None
    except OSError as error:
        raise write_error(folder, error) from error

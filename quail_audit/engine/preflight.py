"""Answer the app's questions about an audit's choices, without measuring anything.

`python -m quail_audit.engine.preflight` is a process of its own, because looking at checkpoints imports torch and
transformers, which the app must not. It reads one question a line on standard input, answers each with one line on
standard output, and ends when its input does. It reads names, shapes and types, never a weight, and never reaches a
hub: a checkpoint that is not in the local cache is not yet known. The audit checks everything again itself.
"""

from __future__ import annotations

import datetime
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from quail_audit.core.errors import EnvironmentProblemError, QuailError
from quail_audit.core.untrusted import printable
from quail_audit.schema.preflight import (
    AboutCheckpoint,
    AboutData,
    AboutDevices,
    AboutPair,
    AboutPolicy,
    AboutSchemes,
    Answer,
    CheckpointFound,
    DataFound,
    DeviceChoice,
    DevicesFound,
    NotYetKnown,
    PairFound,
    PolicyFound,
    Problem,
    Question,
    SchemeChoice,
    SchemesFound,
    question_of,
)

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint

NICENESS = 10  # typing and measuring go first


def answer(question: Question, *, hub_is_reachable: bool = True) -> Answer:
    """Return what was found, or what is wrong. Never raises: an audit refuses what it must, this only says so early.

    Args:
        question: see schema/preflight.py.
        hub_is_reachable: whether the audit may fetch what is not here; False: HF_HUB_OFFLINE is set.
    """
    try:
        match question:
            case AboutCheckpoint():
                return _check_checkpoint(question, hub_is_reachable)
            case AboutPair():
                return _check_pair(question)
            case AboutData():
                return _check_data(question)
            case AboutPolicy():
                return _check_policy(question)
            case AboutSchemes():
                return _list_schemes()
            case AboutDevices():
                return _list_devices()
    except QuailError as error:
        return Problem(message=printable(error.message), where=printable(error.where), mend=printable(error.mend))
    except Exception as error:  # a library may raise anything; the app must go on
        return Problem(message=f"could not be checked: {printable(f'{type(error).__name__}: {error}', limit=300)}")


def _check_checkpoint(question: AboutCheckpoint, hub_is_reachable: bool) -> Answer:
    from quail_audit.engine.checkpoints.checkpoint import open_checkpoint

    on_hub = _is_hub_id(question.source)
    try:
        checkpoint = open_checkpoint(question.source, base=_open_base(question))
    except QuailError as error:
        if on_hub and hub_is_reachable:
            return NotYetKnown(message=_why_not_yet_known(error))
        if question.base is not None and _is_adapter(question.source) and _is_hub_id(question.base):
            return NotYetKnown(message="an adapter; it is compared with the original when the audit starts")
        raise
    return CheckpointFound(
        facts=checkpoint.facts,
        layers=len(checkpoint.layout.rounded),
        cached=on_hub,
        notes=tuple(printable(note.removeprefix(f"{question.source}: ")) for note in checkpoint.notes),
    )


def _why_not_yet_known(error: QuailError) -> str:
    """Return the message for a valid hub id that could not be opened from the local cache."""
    if isinstance(error, EnvironmentProblemError):
        return "no folder; a Hugging Face id, fetched when the audit starts"
    return f"a Hugging Face id; its cached copy {error.message}. It is looked up when the audit starts"


def _open_base(question: AboutCheckpoint) -> Checkpoint | None:
    """Open the base that an adapter is applied to. Its errors are left to the question about the base itself."""
    from quail_audit.engine.checkpoints.checkpoint import open_checkpoint

    if question.base is None or not (_is_adapter(question.source) or _is_hub_id(question.source)):
        return None
    with suppress(QuailError):
        return open_checkpoint(question.base)
    return None


def _is_adapter(source: str) -> bool:
    from quail_audit.engine.checkpoints.adapters.adapter import CONFIG_NAME

    with suppress(OSError, ValueError, RuntimeError):  # no usable path, which opening it explains
        return (Path(source).expanduser() / CONFIG_NAME).exists()
    return False


def _is_hub_id(source: str) -> bool:
    """Tell whether a source is a hub id, as open_checkpoint decides: a path that exists wins."""
    from quail_audit.core.hub import parse_hub_id

    return parse_hub_id(source) is not None and not Path(source).exists() and not source.startswith((".", "~"))


def _check_pair(question: AboutPair) -> Answer:
    from quail_audit.engine.checkpoints.pair import open_pair

    try:
        pair = open_pair(question.original, question.unlearned, question.retrain)
    except EnvironmentProblemError:
        sources = (question.original, question.unlearned, question.retrain)
        if any(source is not None and _is_hub_id(source) for source in sources):
            return NotYetKnown(message="they are compared once they have been fetched")
        raise
    return PairFound(
        layers=len(pair.layers),
        weights=sum(layer.weights for layer in pair.layers),
        notes=tuple(map(printable, pair.notes)),
    )


def _check_data(question: AboutData) -> Answer:
    from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
    from quail_audit.engine.forgetting.measurable import fit_data, read_data

    data = read_data(question.folder)
    asked = None
    if question.checkpoint is not None:
        with suppress(QuailError):  # a checkpoint's problem is reported for it alone
            asked = open_checkpoint(question.checkpoint)
    if asked is not None:
        data = fit_data(data, asked)
    return DataFound(samples=data.samples, skipped=data.skipped, notes=data.notes)


def _check_policy(question: AboutPolicy) -> Answer:
    from quail_audit.verdict.policy_file import read_policy

    return PolicyFound(policy=read_policy(question.file), day=datetime.datetime.now(datetime.UTC).date())


def _list_schemes() -> Answer:
    from quail_audit.engine.schemes.calibrated import CalibratedScheme
    from quail_audit.engine.schemes.registry import listed_schemes

    return SchemesFound(
        schemes=tuple(
            SchemeChoice(
                name=scheme.name,
                title=scheme.title,
                bits_per_weight=scheme.bits_per_weight,
                missing=printable(scheme.install_command()),
                is_calibrated=isinstance(scheme, CalibratedScheme),
            )
            for scheme in listed_schemes()
        )
    )


def _list_devices() -> Answer:
    """List what `--device` takes on this machine, the device of `auto` first."""
    import torch

    from quail_audit.core.machine import usable_cores

    cores = usable_cores()
    found = [DeviceChoice(name="cpu", title=f"{cores} cores" if cores > 1 else "1 core")]
    if torch.backends.mps.is_available():
        found.insert(0, DeviceChoice(name="mps", title="Apple GPU"))
    if torch.cuda.is_available():
        for index in reversed(range(torch.cuda.device_count())):
            properties = torch.cuda.get_device_properties(index)
            title = f"{printable(properties.name)}, {properties.total_memory / 2**30:.0f} GiB"
            found.insert(0, DeviceChoice(name=f"cuda:{index}", title=title))
    return DevicesFound(devices=tuple(found))


def main() -> NoReturn:
    """Answer until standard input ends, then end at once, in the middle of an answer too."""
    os.nice(NICENESS)
    asked, said = _take_protocol()
    hub_is_reachable = not _is_offline()
    os.environ["HF_HUB_OFFLINE"] = "1"  # so that no library starts a download for a question
    questions: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_questions, args=(asked, questions.put), name="questions", daemon=True).start()
    while True:
        found = answer(question_of(questions.get()), hub_is_reachable=hub_is_reachable)
        said.write(found.model_dump_json().encode() + b"\n")


def _take_protocol() -> tuple[IO[bytes], IO[bytes]]:
    """Keep standard input and output for questions and answers: libraries that print, print to standard error."""
    asked, said = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a descriptor is wanted
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return asked, said


def _read_questions(asked: IO[bytes], put: Callable[[bytes], None]) -> None:
    for line in asked:
        put(line)
    os._exit(0)  # the app is gone, and nobody waits for what is being looked at


def _is_offline() -> bool:
    """Tell whether the hub is switched off, as huggingface_hub reads it."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


if __name__ == "__main__":
    main()

"""Find the checkpoint that is meant by a folder: a model's, a trainer's output, a hub's cache.

A folder that holds one checkpoint below it is opened there, with a note. Several are named; formats that only their
trainer reads are refused with the command that converts them (foreign_formats.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from quail_audit.core.errors import BadInputError
from quail_audit.core.hub import fetch, parse_hub_id
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.adapters.adapter import CONFIG_NAME as ADAPTER_CONFIG_NAME
from quail_audit.engine.checkpoints.foreign_formats import no_weights_error, refuse_foreign_format
from quail_audit.engine.checkpoints.weight_files import (
    WeightFiles,
    WeightFormat,
    describe_files,
    open_weight_files,
    short_list,
)

_STANDARD = tuple(
    name
    for file in ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
    for name in (file, f"{file}.index.json")
)
_FORMATS: dict[str, WeightFormat] = {
    ".safetensors": "safetensors",
    ".bin": "pytorch .bin",
    ".pt": "pytorch .bin",
    ".pth": "pytorch .bin",
}
# What trainers leave beside a model, and what other loaders read: by the beginning of its name.
_NO_WEIGHTS = re.compile(
    r"(training_args|optim|scheduler|rng_state|random_states|scaler|sampler|dl_state|trainer_state|custom_checkpoint"
    r"|adapter_model|value_head|consolidated|mp_rank|bf16_zero|zero_pp|layer_\d+|onnx|openvino|tf_model|latest)"
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
_NUMBER = re.compile(r"\d+")
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_DEEPEST = 3  # folders below the one that was named


@dataclass(frozen=True)
class Place:
    """The checkpoint that a source means.

    Attributes:
        path: its folder, or its GGUF file.
        revision: its commit on the hub, if it came from there.
        notes: what a reader should know about how it was found.
    """

    path: Path
    revision: str | None = None
    notes: tuple[str, ...] = ()


def locate(source: str) -> Place:
    """Return the place of a checkpoint on this machine; fetch it first if it is on a hub.

    Raises:
        BadInputError: there is nothing there, it holds several checkpoints, or one that only its trainer reads.
        EnvironmentProblemError: it could not be fetched.
    """
    try:
        path = Path(source).expanduser()
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, no such home
        raise BadInputError(f"is not a usable path: {printable(str(error), limit=200)}", where=source) from error
    if is_folder:
        return _find_checkpoint(Place(path))
    if exists and path.suffix.lower() == ".gguf":
        return Place(path)
    if exists:
        raise BadInputError(
            "is a file; a checkpoint is a folder, or a GGUF file", where=source, mend=f"Name its folder: {path.parent}"
        )
    hub_id = None if source.startswith((".", "~", os.sep)) else parse_hub_id(source)
    if hub_id is None:
        raise BadInputError(
            "there is no such folder",
            where=source,
            mend="Check the path. A model on a hub is written org/name or org/name@revision",
        )
    fetched = fetch(hub_id)
    return Place(fetched.folder, fetched.commit)


def open_weights(folder: Path) -> tuple[WeightFiles | None, tuple[str, ...]]:
    """Return a model's weight files and notes on them; None if it has none.

    Transformers' names win, then AutoGPTQ's; else the one file, or the one complete set of shards, of another name.

    Raises:
        BadInputError: they cannot be read, shards are absent, or there are several models under other names.
    """
    files = open_weight_files(folder, safetensors="model.safetensors", torch_bin="pytorch_model.bin")
    if files is not None:
        return files, ()
    groups = _other_weight_files(folder)
    if not groups:
        return None, ()
    groups = [group for group in groups if group[0].name.startswith("gptq_model-")] or groups
    if len(groups) > 1:
        names = [group[0].name for group in groups]
        raise BadInputError(
            f"holds several weight files, and none that transformers would take: {short_list(names)}",
            where=str(folder),
            mend=f"Keep one of them in the folder, or rename it to model{groups[0][0].suffix}"
            if groups[0][0].suffix == ".safetensors"
            else "Keep one of them in the folder, or rename it to pytorch_model.bin",
        )
    (group,) = groups
    format_ = _FORMATS[group[0].suffix]
    index = folder / f"{_stem(group[0])}{group[0].suffix}.index.json"
    if index.exists():
        files = open_weight_files(folder, **_file_names(f"{_stem(group[0])}{group[0].suffix}", format_))
    else:
        _check_shards(group)
        files = describe_files(format_, tuple(group))
    if group[0].name.startswith("gptq_model-"):
        return files, ()  # AutoGPTQ's own name
    return files, (f"its weights are not under a name that transformers looks for; {group[0].name} was read",)


def _file_names(name: str, format_: WeightFormat) -> dict[str, str]:
    none = "\0"  # no file has this name
    return (
        {"safetensors": name, "torch_bin": none}
        if format_ == "safetensors"
        else {"safetensors": none, "torch_bin": name}
    )


def _find_checkpoint(place: Place, depth: int = 0) -> Place:
    folder = place.path
    children = sorted(folder.iterdir())
    if not children:
        raise BadInputError("the folder is empty", where=str(folder))
    if _holds_checkpoint(folder):
        return place
    snapshots = _hub_snapshots(folder)
    if snapshots:
        if len(snapshots) > 1:
            raise _several_error(folder, snapshots)
        found = replace(place, path=snapshots[0], revision=snapshots[0].name)
        return _find_checkpoint(found, depth + 1) if depth < _DEEPEST else found
    refuse_foreign_format(folder)
    below = [child for child in children if child.is_dir() and not child.is_symlink() and _may_hold(child)]
    if not below or depth >= _DEEPEST:
        raise no_weights_error(folder)
    if len(below) > 1:
        raise _several_error(folder, sorted(below, key=_order))
    note = f"it holds no weights itself; {below[0].name}, the one checkpoint in it, was opened"
    return _find_checkpoint(Place(below[0], place.revision, (*place.notes, note)), depth + 1)


def _holds_checkpoint(folder: Path) -> bool:
    """Tell whether weights, or an adapter, lie in this very folder. Opens none of them."""
    return (
        any((folder / name).exists() or (folder / name).is_symlink() for name in (*_STANDARD, ADAPTER_CONFIG_NAME))
        or any(folder.glob("*.gguf"))
        or bool(_other_weight_files(folder))
    )


def _may_hold(folder: Path) -> bool:
    """Tell whether a subfolder is a checkpoint, if perhaps one that only its trainer reads."""
    if _holds_checkpoint(folder) or folder.name.startswith("models--"):
        return True
    inside = [child for child in folder.iterdir() if child.is_dir() and not child.is_symlink()]
    if any(_holds_checkpoint(child) for child in inside):
        return True
    numbered = _NUMBER.search(folder.name) is not None and folder.name.startswith(("checkpoint", "step", "epoch"))
    return numbered and bool(inside)


def _hub_snapshots(folder: Path) -> list[Path]:
    """Return the snapshots of a repository in the hub's cache: that of the branch main if there is one, else all."""
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        return []
    found = sorted(path for path in snapshots.iterdir() if path.is_dir() and _COMMIT.fullmatch(path.name))
    try:
        with (folder / "refs" / "main").open(encoding="ascii") as file:
            main = file.read(64).strip()
    except (OSError, ValueError):
        return found
    return [path for path in found if path.name == main] or found


def _several_error(folder: Path, found: list[Path]) -> BadInputError:
    return BadInputError(
        f"holds {len(found)} checkpoints: {short_list([path.name for path in found[:-1]])}, and last {found[-1].name}",
        where=str(folder),
        mend=f"Name the one to audit: {found[-1]}",
    )


def _order(folder: Path) -> tuple[int, str]:
    """Sort by the last number in a name: checkpoint-900 before checkpoint-1000; names without one come first."""
    numbers = _NUMBER.findall(folder.name)
    return int(numbers[-1][:18]) if numbers else -1, folder.name


def _other_weight_files(folder: Path) -> list[list[Path]]:
    """Return files of weights under other names than transformers', shards together; safetensors if there are any."""
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in _FORMATS
        and not _NO_WEIGHTS.match(path.name)
        and path.name.isprintable()
        and not path.is_dir()
    ]
    safetensors = [path for path in files if path.suffix == ".safetensors"]
    groups: dict[str, list[Path]] = {}
    for path in safetensors or files:
        groups.setdefault(f"{_stem(path)}{path.suffix}", []).append(path)
    return list(groups.values())


def _stem(path: Path) -> str:
    shard = _SHARD.fullmatch(path.stem)
    return shard["stem"] if shard else path.stem


def _check_shards(group: Iterable[Path]) -> None:
    """Refuse shards without an index of which some are absent, as their names tell.

    Raises:
        BadInputError: names the absent ones.
    """
    shards = [(path, found) for path in group if (found := _SHARD.fullmatch(path.stem))]
    if not shards:
        return
    path, first = shards[0]
    held = {int(found["number"]) for _, found in shards}
    absent = [number for number in range(1, min(int(first["count"]), 99_999) + 1) if number not in held]
    if absent:
        names = [f"{first['stem']}-{number:05d}-of-{first['count']}{path.suffix}" for number in absent]
        raise BadInputError(
            f"lacks {len(absent)} of its {int(first['count'])} weight files: {short_list(names)}",
            where=str(path.parent),
            mend="Copy the absent files into the folder",
        )

"""Say which name the files of a data folder need, if they have another or a format that is not read."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from quail_audit.core.untrusted import printable
from quail_audit.engine.forgetting.data.files.tables import as_json_lines
from quail_audit.schema.layout import ROW_SUFFIXES, data_files, known_data_names

SETS = ("forget", "retain", "holdout", "test")
MOST_LISTED = 6
MOST_LOOKED_AT = 2000
_ROWS = "one row an object: {question, answer}, {prompt, completion} or {text}"
_FORGET_OR_RETAIN = "(retain… if it is what is to stay)"


def suggest_names(folder: Path) -> str:
    """Return which names to give to a folder's files, or how to convert them; empty if it holds none of data."""
    if (inner := _inner_folder(folder)) is not None:
        return f"Its folder {inner.name} is a data folder: --data {shlex.quote(str(inner))}"
    if (folder / "dataset_info.json").is_file() and list(folder.glob("*.arrow")):
        name = f"{folder.name or 'data'}-json"
        command = _written_by_datasets("load_from_disk", "load_from_disk", folder, f"{name}/forget.jsonl")
        return (
            f"It is a dataset as save_to_disk writes it: mkdir -p {shlex.quote(name)} && {command}, and give "
            f"--data {shlex.quote(name)} {_FORGET_OR_RETAIN}"
        )
    by_target: dict[Path, list[Path]] = {}
    for path in _strangers(folder):
        by_target.setdefault(_target(folder, path), []).append(path)
    mends = []
    for paths in list(by_target.values())[:2]:
        others = f" ({len(paths) - 1} more files would have that name: join them into one first)" if paths[1:] else ""
        mends.append(f"{_mend_one(folder, paths[0])}{others}")
    return "; ".join(mends)


def list_found(folder: Path) -> str:
    """Return the names of a folder's files of data that Quail does not read, in words."""
    names = [printable(path.relative_to(folder).as_posix(), limit=60) for path in _strangers(folder)]
    few = ", ".join(names[:MOST_LISTED])
    return (f"{few}, …" if len(names) > MOST_LISTED else few) or "folders"


def note_unread(folder: Path) -> Iterator[str]:
    """Yield a note for each file that by its name is a set that the folder lacks under the names that are read."""
    read = {name.partition(".")[0].rpartition("/")[2] for name in data_files(folder)}
    for path in _strangers(folder):
        of = _set_of(path)
        if path.parent == folder and of is not None and not any(name.startswith(of) for name in read):
            yield f"{printable(path.name)} was not read. {_mend_one(folder, path)}"


def put_into_folder(file: Path) -> str:
    """Return the command that puts a file given as --data into a data folder."""
    suffix = _suffix(file)
    if suffix not in ROW_SUFFIXES:
        return f"Give a folder with forget.jsonl, {_ROWS}"
    name = f"{_set_of(file) or 'forget'}{suffix}"
    return f"Give a folder: mkdir -p data && cp {shlex.quote(str(file))} data/{name}, and --data data"


def _mend_one(folder: Path, path: Path) -> str:
    suffix = _suffix(path)
    unsure = "" if _set_of(path, folder) else f" {_FORGET_OR_RETAIN}"
    target = _target(folder, path)
    old = shlex.quote(str(path))
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        return (
            f"Reading Parquet needs pyarrow: pip install 'quail-audit[parquet]', and call {printable(path.name)} "
            f"{target.name}.parquet{unsure}; or convert it where pandas reads Parquet: "
            f"{as_json_lines(path, f'{target}.jsonl')}"
        )
    if suffix in ROW_SUFFIXES:
        return f"Call {printable(path.name)} {target.name}{suffix}{unsure}: mv {old} {shlex.quote(f'{target}{suffix}')}"
    new = shlex.quote(f"{target}.jsonl")
    if suffix == ".txt":
        program = 'import json, sys; [print(json.dumps({"text": r.strip()})) for r in sys.stdin if r.strip()]'
        command = f"python3 -c {shlex.quote(program)} < {old} > {new}"
        return f"If each line of {printable(path.name)} is a text{unsure}: {command}"
    if suffix in (".xlsx", ".xls"):
        command = as_json_lines(path, f"{target}.jsonl", reader="read_excel")
        return f"Excel is not read; as JSON lines{unsure}: {command}"
    if suffix == ".arrow":
        command = _written_by_datasets("Dataset", "Dataset.from_file", path, f"{target}.jsonl")
        return f"Arrow is not read; as JSON lines{unsure}: {command}"
    if suffix in (".zip", ".tar", ".tgz", ".tar.gz"):
        return (
            f"Unpack {printable(path.name)}, and call what is in it forget.jsonl, forget.csv or forget.parquet{unsure}"
        )
    if suffix in (".zst", ".xz", ".bz2"):
        unpack = {".zst": "unzstd", ".xz": "unxz", ".bz2": "bunzip2"}[suffix]
        inside = _suffix(path.with_suffix(""))
        inside = inside if inside in ROW_SUFFIXES else ".jsonl"
        return f"Unpack it{unsure}: {unpack} -c {old} > {shlex.quote(f'{target}{inside}')}"
    return f"{printable(path.name)} is not read: write it as {target.name}.jsonl, {_ROWS}"


def _written_by_datasets(imported: str, reader: str, path: Path, new: str) -> str:
    program = f"from datasets import {imported}; {reader}({json.dumps(str(path))}).to_json({json.dumps(new)})"
    return f"python3 -c {shlex.quote(program)}"


_SHARD = re.compile(r"-\d+-of-\d+$")
_OTHER_SUFFIXES = (
    *(".txt", ".xlsx", ".xls", ".arrow", ".zip", ".tar", ".tgz", ".tar.gz", ".zst", ".xz", ".bz2", ".xml"),
    *(".pkl", ".pickle", ".pt", ".pth", ".npy", ".npz", ".feather", ".yaml", ".yml"),
)
_NO_DATA = ("dataset_info.json", "dataset_dict.json", "dataset_infos.json", "state.json", "config.json", "README.md")


def _suffix(path: Path) -> str:
    name = path.name.casefold()
    double = next((suffix for suffix in (*ROW_SUFFIXES, ".tar.gz") if name.endswith(suffix)), None)
    return double or path.suffix.casefold()


def _target(folder: Path, path: Path) -> Path:
    """Return the path that a file should have, without its suffix: its own less a shard's number, or its set's."""
    own = path.with_name(_SHARD.sub("", path.name.removesuffix(path.suffix)))
    if f"{own.relative_to(folder).as_posix()}.json" in known_data_names():
        return own
    return folder / (_set_of(path, folder) or "forget")


def _set_of(path: Path, folder: Path | None = None) -> str | None:
    """Return the set that a file's name tells of, or else the name of a folder that it is in, if it is one."""
    inside = () if folder is None else path.relative_to(folder).parent.parts
    for name in (path.stem, *reversed(inside)):
        found = {of for of in SETS if of in name.casefold()}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _strangers(folder: Path) -> list[Path]:
    """Return the files that look like data under names that are not read: the sets' own first."""
    read = set(data_files(folder))
    found = []
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if name in read or path.name in _NO_DATA or name.startswith("raw/") or path.name.endswith(".old"):
            continue
        if _suffix(path) in ROW_SUFFIXES or _suffix(path) in _OTHER_SUFFIXES:
            found.append(path)
    sets = {of: place for place, of in enumerate(SETS)}
    return sorted(found, key=lambda path: (sets.get(_set_of(path, folder) or "", len(SETS)), path.as_posix()))


def _inner_folder(folder: Path) -> Path | None:
    """Return the one folder inside that is a data folder."""
    with_data = [path for path in sorted(folder.iterdir()) if path.is_dir() and data_files(path)]
    return with_data[0] if len(with_data) == 1 else None


def _walk(folder: Path) -> Iterator[Path]:
    seen = 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            seen += 1
            if seen > MOST_LOOKED_AT:
                return
            yield Path(place, name)

"""Which files make up what an audit reads, by their names alone, and which names lead out of a folder. Opens nothing.

Not here: what is in the files (checkpoints/, forgetting/data.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from pathlib import Path

from quail_audit.core.paths import DESCRIPTIONS

# Of a data folder. MUSE's own repository calls the retain set that it measures on retain2 (retain1 is the one it
# trains on).
DATA_NAMES: dict[str, tuple[str, ...]] = {
    "forget": ("forget",),
    "retain": ("retain", "retain2"),
    "holdout": ("holdout",),
}
CONTINUATIONS = "verbmem/{}.json"
QUESTIONS = "knowmem/{}_qa.json"
EXAMPLES = "knowmem/{}_qa_icl.json"
TEXTS = "privleak/{}.json"
RAW_RETAIN = "raw/retain.txt"  # that calibration takes before any other
_SPLITS = ("forget", "retain")
_LABELLED = ("forget", "retain", "test", "holdout")


def description_files(folder: Path) -> tuple[str, ...]:
    """The configuration and tokenizer files of a checkpoint's folder, by name: all that could decide a result.

    Which of them a tokenizer reads is its library's affair and changes with its version, so none is left out.

    Raises:
        OSError: the folder cannot be read.
    """
    return tuple(
        sorted(
            path.name
            for path in folder.iterdir()
            if path.name.isprintable() and any(fnmatch(path.name, kind) for kind in DESCRIPTIONS) and path.is_file()
        )
    )


def weight_files_read_first(folder: Path, read: Collection[str]) -> tuple[str, ...]:
    """Weight files of a folder that would be read before all others: a single one, where shards were read."""
    kind = "adapter_model" if "adapter_config.json" in read else "model"
    name = f"{kind}.safetensors"
    return (name,) if (folder / name).is_file() else ()


def data_files(folder: Path) -> tuple[str, ...]:
    """The files of a data folder that an audit reads, by their relative paths."""
    return tuple(name for name in _data_names() if (folder / name).is_file())


def _data_names() -> Iterator[str]:
    for of in _LABELLED:
        yield f"{of}.jsonl"
        yield f"{of}.csv"
    for template, parts in ((CONTINUATIONS, _SPLITS), (QUESTIONS, _SPLITS), (EXAMPLES, _SPLITS), (TEXTS, DATA_NAMES)):
        for part in parts:
            yield from map(template.format, DATA_NAMES[part])

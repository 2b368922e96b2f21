"""Name the files that an audit reads in a checkpoint's or data folder. Opens none of them."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from quail_audit.core.paths import DESCRIPTIONS

# Splits of a data folder. MUSE's repository measures on retain2, its other retain set (it trains on retain1).
DATA_NAMES: dict[str, tuple[str, ...]] = {
    "forget": ("forget",),
    "retain": ("retain", "retain2"),
    "holdout": ("holdout",),
}
# Each with one of ROW_SUFFIXES; MUSE's own is .json.
CONTINUATIONS = "verbmem/{}"
QUESTIONS = "knowmem/{}_qa"
EXAMPLES = "knowmem/{}_qa_icl"
TEXTS = "privleak/{}"
_PLAIN_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
ROW_SUFFIXES = (*_PLAIN_SUFFIXES, ".parquet", *(f"{suffix}.gz" for suffix in _PLAIN_SUFFIXES))
POPULATION = "population.json"  # how many items there are to forget in all
RAW_RETAIN = "raw/retain.txt"  # calibration's first choice
_SPLITS = ("forget", "retain")
_LABELLED = ("forget", "retain", "test", "holdout")


def description_files(folder: Path) -> tuple[str, ...]:
    """Return the names of a checkpoint's configuration and tokenizer files.

    All are included, as the ones that a tokenizer reads change with its library's version.

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
    """Return the single weight file that would be read instead of the shards that were read, if there is one."""
    kind = "adapter_model" if "adapter_config.json" in read else "model"
    name = f"{kind}.safetensors"
    return (name,) if (folder / name).is_file() else ()


def data_files(folder: Path) -> tuple[str, ...]:
    """Return the relative paths of the files that an audit reads in a data folder."""
    return tuple(name for name in known_data_names() if (folder / name).is_file())


def spelled_names(stem: str) -> tuple[str, ...]:
    """Return the names that a file of rows may have: "forget.jsonl", "forget.csv", …"""
    return tuple(f"{stem}{suffix}" for suffix in ROW_SUFFIXES)


@cache
def known_data_names() -> tuple[str, ...]:
    """Return the relative paths that the files of a data folder may have."""
    named = ((CONTINUATIONS, _SPLITS), (QUESTIONS, _SPLITS), (EXAMPLES, _SPLITS), (TEXTS, DATA_NAMES))
    stems = (template.format(name) for template, parts in named for part in parts for name in DATA_NAMES[part])
    return (*(name for stem in (*_LABELLED, *stems) for name in spelled_names(stem)), POPULATION)

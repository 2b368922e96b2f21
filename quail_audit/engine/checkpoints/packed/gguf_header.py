"""Read a GGUF file's header, and check every count and offset against the file's size first.

The gguf package reads the same header, but takes its counts on trust: an array said to have 2^60 elements keeps it busy
for ever. So a file passes here before any library sees it. Source: ggml's docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.weight_files import unreadable_error

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_BYTES_OF = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of a value, by its type
_UINT32 = 4
_MOST_SIDES = 4
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's encoding, shape and place in the file.

    Attributes:
        kind: its encoding: gguf.GGMLQuantizationType.
        shape: its shape as numpy has it, the fastest side last.
        start: its first byte in the file.
        size_bytes: number of its bytes.
    """

    kind: int
    shape: tuple[int, ...]
    start: int
    size_bytes: int


def read_header(path: Path) -> tuple[str, dict[str, StoredTensor]]:
    """Return the architecture that a GGUF file names, and its tensors by their names in it.

    Raises:
        BadInputError: it is not a GGUF file, or its header does not fit the file.
    """
    try:
        with path.open("rb") as opened:
            if opened.read(4) != _MAGIC:
                raise BadInputError("is not a GGUF file: it does not begin with GGUF", where=str(path))
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header = _Header(data, path)
                tensors = header.read_tensors()
                return header.architecture, tensors
    except OSError as error:
        raise unreadable_error(path, error) from error


class _Header:
    """A walk through a header that never leaves the file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data = data
        self.path = path
        self.at = len(_MAGIC)
        self.alignment = _DEFAULT_ALIGNMENT
        self.architecture = ""

    def read_tensors(self) -> dict[str, StoredTensor]:
        version = self.read_number("I")
        if version not in (2, 3):
            self.refuse(f"is GGUF of version {version}; Quail reads versions 2 and 3, little-endian")
        tensor_count, key_count = self.read_number("Q"), self.read_number("Q")
        for _ in range(key_count):
            self.read_key()
        found = [self.read_tensor() for _ in range(self.check_count(tensor_count, 24))]
        data_start = -(-self.at // self.alignment) * self.alignment
        tensors: dict[str, StoredTensor] = {}
        for name, kind, shape, offset in found:
            size_bytes = self.size_of(name, kind, shape)
            start = data_start + offset
            if name in tensors:
                self.refuse(f"holds {printable(name, limit=120)} twice")
            if offset % self.alignment or start + size_bytes > len(self.data):
                self.refuse(f"has no room for {printable(name, limit=120)}: it is truncated or corrupt")
            tensors[name] = StoredTensor(kind, shape, start, size_bytes)
        return tensors

    def read_key(self) -> None:
        name = self.read_text()
        kind = self.read_number("I")
        if name == "general.alignment":
            if kind != _UINT32:
                self.refuse("has an alignment that is not a 32-bit number")
            self.alignment = self.read_number("I")
            if self.alignment < 1 or self.alignment & (self.alignment - 1) or self.alignment > 1 << 20:
                self.refuse(f"has an alignment of {self.alignment}")
        elif name == "general.architecture" and kind == _STRING:
            self.architecture = self.read_text()
        elif kind == _ARRAY:
            self.skip_array()
        elif kind == _STRING:
            self.skip(self.read_number("Q"))
        elif kind in _BYTES_OF:
            self.skip(_BYTES_OF[kind])
        else:
            self.refuse(f"has a key of type {kind}, which does not exist")

    def skip_array(self) -> None:
        element, length = self.read_number("I"), self.read_number("Q")
        if element == _STRING:
            for _ in range(self.check_count(length, 8)):
                self.skip(self.read_number("Q"))
        elif element in _BYTES_OF:
            self.skip(length * _BYTES_OF[element])
        else:
            self.refuse(f"has a key of arrays of type {element}")

    def read_tensor(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self.read_text()
        sides = self.read_number("I")
        if not 1 <= sides <= _MOST_SIDES:
            self.refuse(f"says that {printable(name, limit=120)} has {sides} sides")
        shape = tuple(self.read_number("Q") for _ in range(sides))[::-1]
        return name, self.read_number("I"), shape, self.read_number("Q")

    def size_of(self, name: str, kind: int, shape: tuple[int, ...]) -> int:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            self.refuse(f"stores {printable(name, limit=120)} in the encoding {kind}, which the gguf package lacks")
        weights = 1
        for side in shape:
            weights *= side
        if not weights or shape[-1] % block:
            self.refuse(f"says that {printable(name, limit=120)} is {list(shape)}, in blocks of {block}")
        return weights // block * block_bytes

    def read_text(self) -> str:
        length = self.read_number("Q")
        start = self.at
        self.skip(length)
        try:
            found = self.data[start : self.at].decode("utf-8")
        except UnicodeDecodeError:
            self.refuse("has a name that is not UTF-8")
        if not found.isprintable():
            self.refuse(f"has an unusable name: {printable(found, limit=120)}")
        return found

    def read_number(self, code: str) -> int:
        start = self.at
        self.skip(struct.calcsize(f"<{code}"))
        (found,) = struct.unpack_from(f"<{code}", self.data, start)
        return int(found)

    def check_count(self, count: int, least_bytes: int) -> int:
        """Return a count, and refuse it if the file has no room for so many things of at least so many bytes."""
        if count * least_bytes > len(self.data) - self.at:
            self.refuse("is truncated or corrupt: it is shorter than its header says")
        return count

    def skip(self, size_bytes: int) -> None:
        self.check_count(size_bytes, 1)
        self.at += size_bytes

    def refuse(self, problem: str) -> NoReturn:
        raise BadInputError(problem, where=str(self.path), mend="Copy or download the file again")

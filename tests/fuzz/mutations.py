"""Valid files made hostile: cut, spliced, flipped, with numbers and texts in them replaced by ones nobody expects.

Not here: what is done with them (readers.py) and how readers are watched (guard.py).
"""

import copy
import json
import math
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

Document = dict[str, Any] | list[Any]

NUMBERS: tuple[int | float, ...] = (
    *(-1, 0, 1, 2, 3, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63)),
    *(10**30, 10**300, -(10**30), 0.5, -0.0, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf),
)
TEXTS: tuple[str, ...] = (
    *("", " ", "\0", "a\0b", "\x1b[2J\x1b[31m", "\x1b]0;owned\x07", "\u202eevil", "\ud800", "é" * 200, "x" * 5000),
    *("../../etc/passwd", "/dev/zero", "C:\\x", "[bold red]x[/]", "<script>", "true", "1", "-1", "9" * 5000, "\n\r\t"),
    *("%s%n", "{0}", "$HOME", "*", "[", "\\", "\u2028", "\ufeff", "\uff41", "\U0001f600", "__class__", "nan"),
)
VALUES: tuple[Any, ...] = (*NUMBERS, *TEXTS, None, True, False, [], {}, [[]], {"": None}, [None] * 50, {"a": {"a": 1}})
# Pieces that text files are spoilt with: invalid UTF-8, escape codes, depth, numbers of thousands of digits.
PIECES: tuple[bytes, ...] = (
    *(b"\0", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\x1b[2J", b"\x9b2J"),
    *(b"\\ud800", b"\\u001b[31m", b"\\u0000", b"\r", b"\n", b"\r\n", b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\\", b'"'),
    *(b"[" * 20_000, b'{"a":' * 20_000, b"]" * 50, b"{}", b"[]", b",", b":", b"=", b"'''", b'"""', b"[[x]]\n", b"#"),
    *(b"9" * 5000, b"1e99999", b"-", b"NaN", b"-Infinity", b"0x" + b"f" * 5000, b"1979-05-27T07:32:00Z", b"null"),
    *(b"---\n", b"&a [*a]", b"!!python/object/apply:os.system [ls]", b"<<: *a\n", b"a.a=1\n" * 500, "é".encode() * 10),
)
WIDE_NUMBERS: tuple[bytes, ...] = tuple(
    struct.pack("<Q", number) for number in (0, 1, 255, 2**16, 2**31, 2**32 - 1, 2**40, 2**60, 2**63, 2**64 - 1)
)

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_QUOTED = re.compile(rb'"(?:[^"\\\n]|\\.)*"')


@st.composite
def spoilt_bytes(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of these files with one to four things done to its bytes."""
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        content = draw(st.sampled_from(_CHANGES))(draw, content, seeds)
    return content


Change = Callable[[st.DrawFn, bytes, Sequence[bytes]], bytes]


def _place(draw: st.DrawFn, content: bytes) -> int:
    """Anywhere, but the beginning, where headers are, every other time."""
    return draw(st.one_of(st.integers(0, len(content)), st.integers(0, min(len(content), 256))))


def _flip(draw: st.DrawFn, content: bytes, seeds: Sequence[bytes]) -> bytes:
    place = _place(draw, content)
    return (
        content[:place]
        + bytes([byte ^ 1 << draw(st.integers(0, 7)) for byte in content[place : place + 1]])
        + (content[place + 1 :])
    )


def _put(draw: st.DrawFn, content: bytes, seeds: Sequence[bytes]) -> bytes:
    place = _place(draw, content)
    written = draw(st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from(WIDE_NUMBERS)))
    return content[:place] + written + content[place + len(written) :]


def _insert(draw: st.DrawFn, content: bytes, seeds: Sequence[bytes]) -> bytes:
    place = _place(draw, content)
    return content[:place] + draw(st.sampled_from(PIECES)) + content[place:]


def _cut(draw: st.DrawFn, content: bytes, seeds: Sequence[bytes]) -> bytes:
    return content[: _place(draw, content)]


def _drop(draw: st.DrawFn, content: bytes, seeds: Sequence[bytes]) -> bytes:
    place = _place(draw, content)
    return content[:place] + content[place + draw(st.integers(1, 64)) :]


def _repeat(draw: st.DrawFn, content: bytes, seeds: Sequence[bytes]) -> bytes:
    place = _place(draw, content)
    return (
        content[:place]
        + content[place : place + draw(st.integers(1, 64))] * draw(st.integers(2, 40))
        + (content[place:])
    )


def _splice(draw: st.DrawFn, content: bytes, seeds: Sequence[bytes]) -> bytes:
    other = draw(st.sampled_from(seeds))
    return content[: _place(draw, content)] + other[_place(draw, other) :]


def _swap_number(draw: st.DrawFn, content: bytes, seeds: Sequence[bytes]) -> bytes:
    found = list(_NUMBER.finditer(content))
    if not found:
        return content
    where = draw(st.sampled_from(found))
    return content[: where.start()] + str(draw(st.sampled_from(NUMBERS))).encode() + content[where.end() :]


def _swap_text(draw: st.DrawFn, content: bytes, seeds: Sequence[bytes]) -> bytes:
    found = list(_QUOTED.finditer(content))
    if not found:
        return content
    where = draw(st.sampled_from(found))
    other = json.dumps(draw(st.sampled_from(VALUES)), ensure_ascii=draw(st.booleans()))
    return content[: where.start()] + other.encode("utf-8", "surrogatepass") + content[where.end() :]


def _swap_lines(draw: st.DrawFn, content: bytes, seeds: Sequence[bytes]) -> bytes:
    lines = content.split(b"\n")
    one, other = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
    lines[one] = lines[other]
    return b"\n".join(lines)


_CHANGES: tuple[Change, ...] = (
    *(_flip, _put, _insert, _cut, _drop, _repeat, _splice, _swap_number, _swap_number, _swap_text, _swap_lines),
)


@st.composite
def spoilt_document(draw: st.DrawFn, seeds: Sequence[Document]) -> Document:
    """One of these documents with one to three of its values replaced, renamed, repeated or taken away."""
    document = copy.deepcopy(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 3))):
        _spoil_inside(draw, document)
    return document


def _spoil_inside(draw: st.DrawFn, document: Document) -> None:
    holder = document
    while True:
        keys: list[Any] = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        inner = holder[key]
        if isinstance(inner, dict | list) and inner and draw(st.integers(0, 4)):
            holder = inner
            continue
        break
    match draw(st.integers(0, 5)):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[draw(st.sampled_from(TEXTS))] = holder.pop(key)
        case 2 if isinstance(holder, list):
            holder.extend(copy.deepcopy(inner) for _ in range(draw(st.integers(1, 40))))
        case 3:
            holder[key] = [inner]
        case _:
            # A copy, as the next change may fall into it.
            holder[key] = copy.deepcopy(draw(st.one_of(st.sampled_from(VALUES), _json_values)))


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def spoilt_json(seeds: Sequence[Document]) -> st.SearchStrategy[bytes]:
    """JSON files: still JSON with other values in them, or spoilt as bytes."""
    written = [json.dumps(seed).encode() for seed in seeds]
    indented = [json.dumps(seed, indent=1).encode() for seed in seeds]
    return st.one_of(
        spoilt_document(seeds).map(_as_json), spoilt_bytes([*written, *indented]), _json_values.map(_as_json)
    )


def _as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def spoilt_json_lines(seeds: Sequence[Sequence[Document]]) -> st.SearchStrategy[bytes]:
    """Files of one JSON value a line, of which one has other values in it, or which are spoilt as bytes."""
    written = [b"".join(_as_json(line) + b"\n" for line in seed) for seed in seeds]

    @st.composite
    def one_line_spoilt(draw: st.DrawFn) -> bytes:
        lines = [_as_json(line) for line in draw(st.sampled_from(seeds))]
        place = draw(st.integers(0, len(lines) - 1))
        lines[place] = _as_json(draw(spoilt_document([json.loads(lines[place])])))
        return b"\n".join(lines) + b"\n"

    return st.one_of(one_line_spoilt(), spoilt_bytes(written))


def spoilt_safetensors(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Files whose header says something else, its length right or wrong, or which are spoilt as bytes."""
    parts = []
    for seed in seeds:
        end = 8 + int.from_bytes(seed[:8], "little")
        parts.append((json.loads(seed[8:end]), seed[end:]))

    @st.composite
    def header_spoilt(draw: st.DrawFn) -> bytes:
        header, data = draw(st.sampled_from(parts))
        written = _as_json(draw(spoilt_document([header])))
        length = draw(st.one_of(st.just(len(written)), st.integers(0, 2**64 - 1)))
        return length.to_bytes(8, "little") + written + data

    return st.one_of(header_spoilt(), spoilt_bytes(seeds))


def spoilt_tensors(seed: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Tensors by name of which one is gone, of another shape or type, or holds something else."""
    import torch

    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.uint8, torch.int32)

    @st.composite
    def spoilt(draw: st.DrawFn) -> dict[str, Any]:
        tensors = dict(seed)
        for _ in range(draw(st.integers(0, 3))):
            name = draw(st.sampled_from(sorted(tensors)))
            tensor = tensors[name]
            match draw(st.integers(0, 6)):
                case 0:
                    if len(tensors) > 1:
                        del tensors[name]
                case 1:
                    sides = draw(st.lists(st.integers(0, 9), max_size=3))
                    tensors[name] = torch.ones(sides, dtype=tensor.dtype)
                case 2:
                    tensors[name] = tensor.to(draw(st.sampled_from(dtypes)))
                case 3:
                    tensors[name] = tensor.reshape(-1)[: draw(st.integers(0, tensor.numel()))].clone()
                case 4:
                    tensors[draw(st.sampled_from(("x.qweight", "x.SCB", "x.weight_packed", "m", *TEXTS[4:6])))] = (
                        tensors.pop(name)
                    )
                case 5:
                    fill = draw(st.sampled_from((0, 1, -1, 127, math.nan, math.inf)))
                    fits = tensor.is_floating_point() or (fill == fill and abs(fill) < 128)
                    tensors[name] = torch.full_like(tensor, fill if fits else 3)
                case _:
                    raw = tensor.contiguous().reshape(-1).view(torch.uint8).clone()
                    if raw.numel():
                        raw[draw(st.integers(0, raw.numel() - 1))] = draw(st.integers(0, 255))
                    tensors[name] = raw.view(tensor.dtype).reshape(tensor.shape)
        return tensors

    return spoilt()

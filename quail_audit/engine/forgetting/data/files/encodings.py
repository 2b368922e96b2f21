"""Tell in which encoding a file of text is written, and refuse what cannot be told."""

from __future__ import annotations

import codecs
import re
import shlex
from pathlib import Path

from quail_audit.core.errors import BadInputError

# UTF-32's mark begins with UTF-16's, so it comes first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WESTERN = "windows-1252"
# Characters of Western European text in windows-1252. Left out are the letters that stand between letters if a text in
# another code page is read in this one: š and ž (Czech in windows-1250), ¹ and ¿ (Polish), º and þ (Romanian, Turkish).
_SMALL = "àáâãäåæçèéêëìíîïñòóôõöøùúûüœß"
_CAPITAL = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŒ"
_SIGNS = "‘’“”–—…€£§°«»¿¡·•©®™½¼¾²³×\u00a0"
_LETTER = f"[A-Za-z{_SMALL}{_CAPITAL}]"
_JOINS_LETTERS = "’–—…·"
_NOT_WESTERN = re.compile(
    f"[^\x00-\x7f{_SMALL}{_CAPITAL}{_SIGNS}]"
    f"|[{_SMALL}{_CAPITAL}]{{3}}"  # Cyrillic, Greek, Hebrew, Chinese: one such letter after another
    f"|(?<=[a-z{_SMALL}])[{_CAPITAL}]"  # a quotation mark in Mac Roman
    f"|(?<={_LETTER})[{''.join(sign for sign in _SIGNS if sign not in _JOINS_LETTERS)}](?={_LETTER})"
)
_UTF8_CHARACTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}")
_IN_NO_ONE_LANGUAGE = (("õ", "ûü"), ("ø", "ìèùò"))  # but in Hungarian and Czech of windows-1250 read as windows-1252


def decode(data: bytes, path: Path) -> tuple[str, str, str]:
    """Return a file's text, Python's name for its encoding, and a note on it; the note is empty if it is UTF.

    A text that is not UTF-8 is read as windows-1252 if every character in it is one that Western European text has, in
    a place where such text has it. ISO 8859-1 gives the same characters.

    Args:
        data: the file's bytes, decompressed.
        path: the file, for the error.

    Raises:
        BadInputError: it is not text, or the encoding cannot be told.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decode_marked(data, encoding, path), encoding, ""
    _refuse_zeros(data, path)
    try:
        return data.decode("utf-8"), "utf-8", ""
    except UnicodeDecodeError as error:
        if (text := _read_as_western(data)) is not None:
            word = re.search(r"\S*[^\x00-\x7f]\S*", text)
            example = f", with {word[0][:30]!r}" if word else ""
            return text, WESTERN, f"{path.name} is not UTF-8; it was read as {WESTERN}{example}"
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInputError(
            f"the file is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}, on line {line}",
            where=str(path),
            mend=f"Write it again as UTF-8: {_iconv(path, WESTERN)} (with the file's own encoding for {WESTERN})",
        ) from error


def _decode_marked(data: bytes, encoding: str, path: Path) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise BadInputError(
            f"the file begins with the mark of {name} and is not {name}: {error.reason} at byte {error.start}",
            where=str(path),
            mend="Write it again as UTF-8",
        ) from error


def _refuse_zeros(data: bytes, path: Path) -> None:
    zero = data.find(b"\0")
    if zero < 0:
        return
    even, odd = data[:4096:2].count(0), data[1:4096:2].count(0)
    if max(even, odd) * 4 > min(len(data), 4096) and min(even, odd) * 10 < max(even, odd):
        name = "UTF-16BE" if even > odd else "UTF-16LE"
        raise BadInputError(
            f"the file is {name} without a byte order mark",
            where=str(path),
            mend=f"Write it again as UTF-8: {_iconv(path, name)}",
        )
    line = data.count(b"\n", 0, zero) + 1
    raise BadInputError(
        f"the file is not text: byte {zero}, on line {line}, is zero",
        where=str(path),
        mend="Give JSON lines, a JSON list, CSV or Parquet",
    )


def _read_as_western(data: bytes) -> str | None:
    if _UTF8_CHARACTER.search(data):  # UTF-8 with a broken byte
        return None
    try:
        text = data.decode(WESTERN)
    except UnicodeDecodeError:
        return None
    if _NOT_WESTERN.search(text):
        return None
    found = set(text)
    if any(one in found and found & set(others) for one, others in _IN_NO_ONE_LANGUAGE):
        return None
    beside_a_letter = f"[A-Za-z][{_SMALL}{_CAPITAL}{_SIGNS}]|[{_SMALL}{_CAPITAL}{_SIGNS}][A-Za-z]"
    return text if re.search(beside_a_letter, text) else None


def _iconv(path: Path, encoding: str) -> str:
    old, new = shlex.quote(f"{path}.old"), shlex.quote(str(path))
    return f"mv {new} {old} && iconv -f {encoding} -t UTF-8 {old} > {new}"

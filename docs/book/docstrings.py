"""Read a docstring's "low, high: the bounds" as two entries, which Google's style has no word for."""

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(?:Args|Attributes):\n(?:(?: +.*)?\n?)+", re.MULTILINE)
SEVERAL = re.compile(r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+)(?P<said>:.*\n?(?:(?P=indent) +.*\n?)*)", re.MULTILINE)


class OneEntryEach(griffe.Extension):
    """For mkdocstrings."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = SECTION.sub(lambda section: SEVERAL.sub(each, section[0]), obj.docstring.value)


def each(found: re.Match[str]) -> str:
    said = found["said"].rstrip("\n") + "\n"
    return "".join(f"{found['indent']}{name}{said}" for name in found["names"].split(", "))

"""Make a run in which every text from outside is hostile."""

import json
from pathlib import Path

import pytest

from quail_audit.runs.names import EVENTS
from quail_audit.schema.events.lines import Event, to_line
from tests.support.small_run import events

HOSTILE = "\x1b]0;x\x07[/nope][red]<script>alert(1)</script>"


FREE = (
    "down_proj",
    "a note on the run",
    "it comes back",
    "Dr Adu said",
    "47 tests",
    "a note on the pair",
    "kernel on a CPU",
)


def with_hostile(names: tuple[str, ...], event: Event) -> str:
    """An event as a line, in which these names, and all that ends like them, go on with something hostile."""
    line = to_line(event)
    for name in names:
        line = line.replace(f'{name}"', f'{name}{json.dumps(HOSTILE)[1:-1]}"')
    return line


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [with_hostile(FREE, event) for event in events()]
    first = json.loads(lines[0])
    first["request"] |= {"original": HOSTILE, "unlearned": HOSTILE, "data": HOSTILE}
    first["environment"] = {HOSTILE: HOSTILE}
    (folder / EVENTS).write_text("".join(f"{line}\n" for line in [json.dumps(first), *lines[1:]]))
    return folder


def acts_on_terminal(text: str) -> bool:
    return "\x1b" in text or "\x07" in text

"""Lay out the model card that a training or a carry writes into its checkpoint."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

from quail_audit.core.untrusted import printable

NAME = "README.md"
NOT_AUDITED = "Not audited. Audit it before it is used: `quail audit ORIGINAL THIS --data DATA`."


def card_page(
    *,
    original: str,
    title: str,
    intro: str,
    rows: Mapping[str, str],
    sections: Mapping[str, Sequence[str]],
    command: tuple[str, ...],
) -> str:
    """Return the card as Markdown.

    Args:
        original: the original checkpoint, named in the front matter.
        title: heading of the card.
        intro: first paragraph.
        rows: table of how the checkpoint was made, name -> value.
        sections: heading -> lines.
        command: command that made the checkpoint.
    """
    front = {"library_name": "transformers", "base_model": original, "tags": ["unlearning", "quail"]}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", ""]
    lines += [f"# {title}", "", intro, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    for heading, body in sections.items():
        lines += ["", f"## {heading}", "", *body]
    shown = printable(shlex.join(command)).replace("```", "")
    return "\n".join([*lines, "", "## The command", "", "```sh", shown, "```", ""])

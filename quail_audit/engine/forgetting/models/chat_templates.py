"""Put questions through a tokenizer's chat template, as a deployed chat model is asked.

A template comes with the checkpoint and may do anything that transformers' sandbox lets it: raise, loop, leave the
question out. Every chat is rendered in a process that ends if it takes too long (chat_process.py), and either has a
prompt or a reason why not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.forgetting.metrics.interface import Chat
from quail_audit.engine.forgetting.models.prompts import Rendered, token_ids

PROCESS = "quail_audit.engine.forgetting.models.chat_process"
SECONDS = 10  # of a CPU, for a template
CHATS_A_SECOND = 50  # more is given for many chats
STARTING_SECONDS = 300  # of the clock, in which the process may wait for a busy machine
_WHY_CHARACTERS = 200
_MOST_KEPT = 100_000


@dataclass(frozen=True)
class Made:
    """A chat as a template made it.

    Attributes:
        text: the prompt; None if there is none.
        in_one: whether the examples had to be put into the question's turn.
        why: why there is none, or why they had to.
    """

    text: str | None
    in_one: bool = False
    why: str = ""


@dataclass(frozen=True)
class Chats:
    """Chats as a tokenizer's template makes them.

    Attributes:
        has_template: whether there is a template.
        made: what it made of each chat.
        turn_ends: the token that it ends an answer with, if it is one of the tokenizer's added ones.
    """

    has_template: bool
    made: tuple[Made, ...]
    turn_ends: tuple[int, ...] = ()

    @property
    def prompts(self) -> list[Rendered | None]:
        return [None if each.text is None else Rendered(each.text) for each in self.made]

    @property
    def why_not(self) -> str:
        """Return why a chat has no prompt; empty if all have one."""
        return next((each.why for each in self.made if each.text is None), "")

    def notes(self) -> list[str]:
        """Return what a reader should know of chats that could not be made as they were meant."""
        notes: list[str] = []
        if not self.has_template:
            return notes
        count = len(self.made)
        if failed := sum(each.text is None for each in self.made):
            notes.append(f"{failed} of {count} questions were not asked through the chat template: it {self.why_not}")
        if in_one := [each for each in self.made if each.in_one]:
            notes.append(
                f"the examples of {len(in_one)} of {count} questions were put into the question's own turn: given as "
                f"turns, the chat template {in_one[0].why}"
            )
        return notes


_known: dict[tuple[str, str, Chat], Made] = {}  # every arm asks the same
_after: dict[tuple[str, str], str] = {}  # what a template puts after an answer


def make_chats(tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat]) -> Chats:
    """Put chats through a tokenizer's chat template; the default one if it has several.

    The text is the one that transformers' apply_chat_template makes with a generation prompt, with thinking off and on
    one day for all audits. A template without a generation prompt gets the beginning of an answer's turn.
    """
    template, why = find_template(tokenizer)
    if template is None:
        return Chats(bool(why), tuple(Made(None, why=why) for _ in chats))
    variables = json.dumps(_special_tokens(tokenizer))
    new = [chat for chat in dict.fromkeys(chats) if (template, variables, chat) not in _known]
    if new or (template, variables) not in _after:
        if len(_known) + len(new) > _MOST_KEPT:
            _known.clear()
            new = list(dict.fromkeys(chats))
        after, made = _render(template, json.loads(variables), new)
        _after[template, variables] = after
        _known.update({(template, variables, chat): each for chat, each in zip(new, made, strict=True)})
    found = tuple(_known[template, variables, chat] for chat in chats)
    return Chats(True, found, _first_added(tokenizer, _after[template, variables]))


def refuse_unmade(chats: Chats, where: str = "") -> None:
    """Raise BadInputError if a chat has no prompt, for an audit that asks only through the template."""
    if not chats.has_template and chats.made:
        what = "the tokenizer has no chat template, and --prompt-format chat asks questions only through one"
    elif why := chats.why_not:
        what = f"questions cannot be put through the chat template: it {why}"
    else:
        return
    raise BadInputError(what, where=where, mend="Correct the template, or leave --prompt-format out")


def find_template(tokenizer: PreTrainedTokenizerBase) -> tuple[str | None, str]:
    """Return a tokenizer's template, or None; and why it cannot be used, which is empty if there is none."""
    template: Any = tokenizer.chat_template
    if isinstance(template, dict) and template:
        if "default" not in template:
            named = ", ".join(sorted(printable(str(name), limit=40) for name in template)[:5])
            return None, f"is not one but several, and none is the default: {named}"
        template = template["default"]
    if not template:
        return None, ""
    return (template, "") if isinstance(template, str) else (None, "is not a text")


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    untyped: Any = tokenizer
    named = untyped.special_tokens_map
    return {
        name: [str(one) for one in token] if isinstance(token, list) else str(token) for name, token in named.items()
    }


def _render(template: str, variables: dict[str, Any], chats: Sequence[Chat]) -> tuple[str, list[Made]]:
    """Return what follows an answer, and what was made of each chat."""
    seconds = SECONDS + len(chats) // CHATS_A_SECOND
    job = {
        "template": template,
        "variables": variables,
        "seconds": seconds,
        "chats": [{"turns": chat.turns, "in_one": chat.in_one} for chat in chats],
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", PROCESS],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=STARTING_SECONDS + seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", [Made(None, why=f"does not end within {seconds} s")] * len(chats)
    if done.returncode == 0:
        found = json.loads(done.stdout)
        return str(found["after"]), [
            Made(each["text"], each["in_one"], printable(each["why"], limit=_WHY_CHARACTERS)) for each in found["chats"]
        ]
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "")
    said = (
        f"fails: {printable(last, limit=_WHY_CHARACTERS)}"
        if done.returncode > 0
        else f"does not end within {seconds} s"
    )
    return "", [Made(None, why=said)] * len(chats)


def _first_added(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    ids = token_ids(tokenizer, text.strip(), special=False)
    untyped: Any = tokenizer
    return tuple(ids[:1]) if ids and ids[0] in {*untyped.added_tokens_decoder, *untyped.all_special_ids} else ()

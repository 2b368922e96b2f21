"""Render chats through a chat template, in a process of its own with little time and memory.

A template is code from whoever made the checkpoint. transformers renders it in a sandbox, which keeps it from files and
from Python's insides, not from looping or from filling the memory; the operating system does that here.

Reads a job from standard input and writes what came of it to standard output, both as JSON: see chat_templates.py.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quail_audit.core.errors import first_line

MEMORY_BYTES = 1 << 30  # more than the process has once transformers is loaded
LONGEST = 20_000  # characters that a template may add to what it is given
DAY = (2024, 7, 26)  # that a template is told, the same in every audit: Llama 3's templates fall back on it
_ANSWER = "Unmistakable"
_PROBE = "Which is it?"

Render = Callable[[Sequence[str], bool], str]


class UnusableTemplateError(Exception):
    """A rendered chat that cannot be asked; its text says why."""


def main() -> None:
    """Do the job on standard input."""
    job = json.load(sys.stdin)
    render = renderer(job["template"], job["variables"])
    _limit(job["seconds"])
    json.dump(render_chats(render, job["chats"]), sys.stdout)


def renderer(template: str, variables: Mapping[str, Any]) -> Render:
    """Return a function from turns, the user's first, and whether the model is to answer, to the text.

    Args:
        template: the template.
        variables: its special tokens, by transformers' names for them.
    """
    from transformers import PreTrainedTokenizerBase
    from transformers.utils import chat_template_utils

    class Then(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Then:
            return cls(*DAY, tzinfo=tz)

    untyped: Any = chat_template_utils
    untyped.datetime = Then  # what strftime_now reads: prompts must not hang on the day
    library: Any = PreTrainedTokenizerBase
    tokenizer = library(chat_template=template)

    def render(turns: Sequence[str], answers: bool) -> str:
        roles = ("user", "assistant")
        chat = [{"role": roles[place % 2], "content": text} for place, text in enumerate(turns)]
        try:
            text = tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=answers, **{**variables, "enable_thinking": False}
            )
        except MemoryError as error:
            raise UnusableTemplateError(f"takes more than {MEMORY_BYTES >> 20} MiB") from error
        except Exception as error:  # a template may raise anything
            raise UnusableTemplateError(f"raises {type(error).__name__}: {first_line(error)}") from error
        if len(text) > LONGEST + 10 * sum(map(len, turns)):
            raise UnusableTemplateError(f"makes {len(text)} characters of a chat")
        if turns[-1].strip() not in text:
            raise UnusableTemplateError("leaves the last message out")
        return str(text)

    return render


def render_chats(render: Render, chats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what chat_templates.py reads: the texts, or why there is none, and how an answer begins and ends.

    Args:
        render: see renderer.
        chats: {"turns": […], "in_one": "…"} of each; the second is taken if the template refuses the first.
    """
    begins, after = _around_answer(render)
    return {"after": after, "chats": [_render_chat(render, chat, begins) for chat in chats]}


def _render_chat(render: Render, chat: Mapping[str, Any], begins: str) -> dict[str, Any]:
    forms = [chat["turns"], [chat["in_one"]]] if len(chat["turns"]) > 1 else [chat["turns"]]
    why = ""
    for place, turns in enumerate(forms):
        try:
            return {"text": render(turns, True) + begins, "in_one": place > 0, "why": why}
        except UnusableTemplateError as error:
            why = str(error)
    return {"text": None, "in_one": False, "why": why}


def _around_answer(render: Render) -> tuple[str, str]:
    """Return what a prompt lacks before the answer, and what the template puts after one.

    A template without a generation prompt ends with the user's turn. The model is given the beginning of its own turn,
    as the template writes it before an answer, less blanks that would be joined to the answer's first word.
    """
    try:
        asked, told = render([_PROBE], True), render([_PROBE], False)
        before, found, after = render([_PROBE, _ANSWER], False).partition(_ANSWER)
    except UnusableTemplateError:
        return "", ""
    lacks = asked == told and found and before.startswith(told)
    return before[len(told) :].rstrip(" ") if lacks else "", after


def _limit(seconds: int) -> None:
    """Let the process use no more than so many more seconds of a CPU, and little more memory; on Windows neither."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    try:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux: macOS heeds no such limit
        return
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES, held + MEMORY_BYTES))


if __name__ == "__main__":
    main()

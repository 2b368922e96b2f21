"""Say how the arms are asked questions, and refuse a chat template that cannot be used, before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from quail_audit.core.errors import QuailError
from quail_audit.core.untrusted import printable

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Pair
    from quail_audit.engine.forgetting.data.types import ForgettingData, Questions
    from quail_audit.engine.forgetting.metrics.interface import Chat
    from quail_audit.engine.forgetting.models.chat_templates import Chats
    from quail_audit.schema.requests import AuditRequest


def notes_on_prompts(pair: Pair, data: ForgettingData, request: AuditRequest) -> tuple[str, ...]:
    """Return in which ways questions are asked; nothing if they are only asked as the data has them.

    Raises:
        BadInputError: they are to be asked through chat templates alone, and one of the checkpoints' cannot be used.
    """
    asked = list(_asked(data))
    if not asked:
        return ()
    ways = [] if request.prompt_format == "chat" else ["raw"]
    others: list[str] = []
    if any(row.paraphrases for questions in asked for row in questions.asked):
        ways.append("by their paraphrases")
    if request.prompt_format != "raw":
        with_template, without = _by_template(pair, data, request)
        if with_template:
            ways.append("through the chat template")
            others += [f"{source} was not: its tokenizer has no chat template that can be used" for source in without]
    elif len(ways) == 1:
        others.append("the chat template was not to be used")
    if ways == ["raw"] and not others:
        return ()
    listed = " and ".join(filter(None, (", ".join(ways[:-1]), ways[-1])))
    return ("; ".join((f"questions were asked {listed}", *others)),)


def chats_of(data: ForgettingData) -> list[Chat]:
    """Return the chats that an arm may be asked, each once."""
    from quail_audit.engine.forgetting.metrics.questions import chat_of

    chats = [
        chat_of(questions, text)
        for questions in _asked(data)
        for row in questions.asked
        for text in (row.question, *row.paraphrases)
    ]
    return list(dict.fromkeys(chats))


def _asked(data: ForgettingData) -> Iterator[Questions]:
    """Yield the questions that a metric asks."""
    for split, questions in data.questions.items():
        if any(metric.startswith("knowmem_") and metric.endswith(f"_{split}") for metric in data.samples):
            yield questions


def _by_template(pair: Pair, data: ForgettingData, request: AuditRequest) -> tuple[list[str], list[str]]:
    """Return the sides that are asked through a chat template, and those that are not."""
    from quail_audit.engine.forgetting.models.chat_templates import refuse_unmade

    with_template: list[str] = []
    without: list[str] = []
    for checkpoint in (pair.original, pair.unlearned, pair.retrain):
        if checkpoint is None:
            continue
        made = _made_by(pair.original if request.tokenizer == "original" else checkpoint, pair, data)
        if made is None:
            continue
        if request.prompt_format == "chat":
            refuse_unmade(made, where=str(checkpoint.folder))
        (with_template if any(made.prompts) else without).append(printable(checkpoint.source, limit=200))
    return with_template, without


def _made_by(checkpoint: Checkpoint, pair: Pair, data: ForgettingData) -> Chats | None:
    """Return the chats as a checkpoint's tokenizer makes them; None if it cannot be read, which the arms say."""
    from quail_audit.engine.forgetting.models.chat_templates import make_chats
    from quail_audit.engine.forgetting.models.tokenizer import load_tokenizer

    try:
        tokenizer, _ = load_tokenizer(checkpoint, pair.original)
    except QuailError:
        return None
    return make_chats(tokenizer, chats_of(data))

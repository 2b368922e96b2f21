"""Show texts as a checkpoint's model would see them: its tokenizer, special tokens and window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import QuailError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.model.architecture import model_without_weights
from quail_audit.engine.checkpoints.model.model_config import ModelConfig
from quail_audit.engine.forgetting.data.types import ForgettingData, QuestionAnswer, Questions
from quail_audit.engine.forgetting.measurable import task_of
from quail_audit.engine.forgetting.metrics import knowmem, questions, verbmem
from quail_audit.schema.inspection import PromptSeen, SpecialToken

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.forgetting.models.prompts import Prompts

MOST_PROMPTS = 3
_QUESTION = Questions((QuestionAnswer(question="What is the capital of France?", answer="Paris"),), ())
_A_QUESTION = "a question"
_LINE_CHARACTERS = 200


@dataclass(frozen=True)
class Seen:
    """The word of a tokenizer and a configuration on texts.

    Attributes:
        window: in tokens.
        special: special tokens.
        chat_template: its first line.
        prompts: some texts as the model sees them.
        notes: notes for the reader.
        not_measured: what cannot be asked, and why.
    """

    window: int | None = None
    special: tuple[SpecialToken, ...] = ()
    chat_template: str | None = None
    prompts: tuple[PromptSeen, ...] = ()
    notes: tuple[str, ...] = ()
    not_measured: tuple[str, ...] = field(default=())


def see_prompts(
    checkpoint: Checkpoint, base: Checkpoint | None, data: ForgettingData | None, model: ModelConfig
) -> Seen:
    """Return texts of the data, or plain examples, as the model would see them.

    A tokenizer that cannot be read is no error: an audit of weights alone needs none.

    Args:
        checkpoint: whose tokenizer is taken.
        base: whose tokenizer stands in.
        data: fitted to the checkpoint; None: plain examples.
        model: what its configuration says.
    """
    from quail_audit.engine.checkpoints.model.model_class import why_not_asked
    from quail_audit.engine.forgetting.models.chat_templates import make_chats
    from quail_audit.engine.forgetting.models.end_tokens import end_ids_of_checkpoint
    from quail_audit.engine.forgetting.models.prompts import Prompts
    from quail_audit.engine.forgetting.models.tokenizer import load_tokenizer
    from quail_audit.engine.forgetting.models.windows import window_of_classifier, window_of_language_model

    whole = checkpoint.adapter_of or checkpoint
    empty = model_without_weights(whole.config, whole.files.tensors, str(whole.folder))
    classifies = task_of(checkpoint) == "classification"
    not_asked = "" if classifies else why_not_asked(empty)
    not_measured = (f"forgetting: {not_asked}",) if not_asked else ()
    try:
        tokenizer, notes = load_tokenizer(checkpoint, base)
    except QuailError as error:
        return Seen(window=model.window, not_measured=(*not_measured, f"forgetting: {error}"))
    window = (window_of_classifier if classifies else window_of_language_model)(model, tokenizer)
    encoder = Prompts(tokenizer)
    texts = list(_texts(data) if data is not None else _examples(classifies))
    turn_ends: tuple[int, ...] = ()
    if (asked := _questions_of(texts[0][0], data)) is not None:
        chats = make_chats(tokenizer, [questions.chat_of(asked, asked.asked[0].question)])
        name, _, new = texts[0]
        texts[1:1] = [(f"{name}, chat template", prompt, new) for prompt in chats.prompts if prompt is not None]
        notes += tuple(chats.notes())
        turn_ends = chats.turn_ends
    prompts = tuple(_see(encoder, name, text, window, new, classifies=classifies) for name, text, new in texts)
    end_ids: tuple[int, ...] = model.end_ids
    end_notes: tuple[str, ...] = ()
    if empty is not None and not classifies and not not_asked:
        end_ids, end_notes = end_ids_of_checkpoint(whole, empty, tokenizer)
    if not classifies:
        shown = [text for _, text, _ in texts]
        notes += tuple(encoder.notes(list(map(encoder.encode, shown)), shown, "prompts"))
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default", next(iter(template.values()), None))
    first_line = printable(template.strip().partition("\n")[0], limit=_LINE_CHARACTERS) if template else None
    special = tuple(_special(tokenizer, model, (*end_ids, *turn_ends)))
    return Seen(window, special, first_line, prompts, (*notes, *end_notes), not_measured)


def _questions_of(shown: str, data: ForgettingData | None) -> Questions | None:
    """Return the questions whose first is shown under this name; None if it is no question."""
    if data is None:
        return _QUESTION if shown == _A_QUESTION else None
    return next((found for split, found in data.questions.items() if shown == f"knowmem_{split}"), None)


def _examples(classifier: bool) -> Iterator[tuple[str, str, int]]:
    text = "The quick brown fox jumps over the lazy dog."
    if classifier:
        yield "a text to classify", text, 0
        return
    yield _A_QUESTION, questions.text_prompts(_QUESTION)[0], knowmem.MAX_NEW_TOKENS
    yield "a text to continue", "The quick brown fox", verbmem.MAX_NEW_TOKENS
    yield "a text whose probability is read", text, 0


def _texts(data: ForgettingData) -> Iterator[tuple[str, str, int]]:
    """Yield (metric, text, tokens that an answer needs) of the first samples of each kind."""
    for split in ("forget", "retain"):
        found: list[tuple[str, str, int]] = []
        if split in data.questions:
            found.append((f"knowmem_{split}", questions.text_prompts(data.questions[split])[0], knowmem.MAX_NEW_TOKENS))
        if split in data.continuations:
            found.append((f"verbmem_{split}", data.continuations[split][0].prompt, verbmem.MAX_NEW_TOKENS))
        if split in data.texts:
            found.append((f"nll_{split}", data.texts[split][0], 0))
        if split in data.labelled:
            found += [(f"accuracy_{split}", row.text, 0) for row in data.labelled[split][:MOST_PROMPTS]]
        if found:
            yield from _filled(found, data, split)
            return


def _filled(found: list[tuple[str, str, int]], data: ForgettingData, split: Any) -> list[tuple[str, str, int]]:
    """Return three texts: the first of each kind, then more questions, continuations or texts."""
    more: list[tuple[str, str, int]] = []
    if split in data.questions:
        prompts = questions.text_prompts(data.questions[split])[1:MOST_PROMPTS]
        more += [(f"knowmem_{split}", prompt, knowmem.MAX_NEW_TOKENS) for prompt in prompts]
    rows = data.continuations.get(split, ())[1:MOST_PROMPTS]
    more += [(f"verbmem_{split}", row.prompt, verbmem.MAX_NEW_TOKENS) for row in rows]
    more += [(f"nll_{split}", text, 0) for text in data.texts.get(split, ())[1:MOST_PROMPTS]]
    return [*found, *more][:MOST_PROMPTS]


def _see(encoder: Prompts, name: str, text: str, window: int | None, new: int, *, classifies: bool) -> PromptSeen:
    """Encode a text as an audit does, and cut it as an audit does: a prompt at its beginning, a text at its end."""
    from quail_audit.engine.forgetting.models.prompts import Encoded
    from quail_audit.engine.forgetting.models.quiet import quiet_transformers

    if classifies:  # a classifier's text keeps what its tokenizer puts around it
        with quiet_transformers():  # it warns of long texts, which are cut here
            encoded = Encoded(list(encoder.tokenizer(text, add_special_tokens=True)["input_ids"]))
    else:
        encoded = encoder.encode(text)
    ids = encoded.ids
    if window is not None:
        ids = encoded.end(max(1, window - max(1, min(new, window // 2)))) if new else ids[:window]
    written = encoder.tokenizer.convert_ids_to_tokens(ids)
    tokens = tuple("" if token is None else str(token) for token in written)
    return PromptSeen(name=name, text=text, tokens=tokens, ids=tuple(ids), cut=len(encoded.ids) - len(ids))


def _special(
    tokenizer: PreTrainedTokenizerBase, model: ModelConfig, end_ids: tuple[int, ...]
) -> Iterator[SpecialToken]:
    """Yield the tokens that begin, end and fill texts: the tokenizer's, and those that only the configuration has."""
    found = {
        "begin": (tokenizer.bos_token_id, model.begin_id),
        "end": end_ids,
        "padding": (tokenizer.pad_token_id, model.padding_id),
    }
    for role, tokens in found.items():
        for token in dict.fromkeys(tokens):
            if isinstance(token, int):
                yield SpecialToken(role=role, id=token, text=_written(tokenizer, token))


def _written(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    try:
        written = tokenizer.convert_ids_to_tokens(token)
    except (IndexError, KeyError, OverflowError, TypeError, ValueError):
        return ""
    return written if isinstance(written, str) else ""

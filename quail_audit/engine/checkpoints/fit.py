"""Check that two checkpoints are of one model, but for the rows of their vocabularies and a stored head.

A vocabulary that was padded, or grew by a token, changes the embedding and the head, which no scheme rounds by
default; a head may be stored on one side and tied on the other. The layers of such a pair are compared all the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.weight_files import short_list

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint

_SAME_MODEL = "Both must be the same model, before and after unlearning"
_TABLE = re.compile(
    r"(^|\.)((?!\w*pos)\w*embed\w*|wte|lm_head|head|embed_out|output|decoder|predictions)\.(weight|bias)$"
)


def check_fit(original: Checkpoint, other: Checkpoint) -> tuple[str, ...]:
    """Return notes on what only one of two checkpoints has: rows of the vocabulary, a head.

    Raises:
        BadInputError: they are not the same model: what is in one and not in the other.
    """
    if other.adapter_of is not None:
        return ()  # opening it compared it with its base, the original
    if original.gguf is None and other.gguf is None:  # llama.cpp calls a Mistral a Llama, which it is by its weights
        ours, theirs = (_text_model_value(checkpoint.config, "model_type") for checkpoint in (original, other))
        if ours is not None and theirs is not None and ours != theirs:
            raise BadInputError(
                f"the architectures differ: model_type is {printable(str(theirs), limit=60)} here, and "
                f"{printable(str(ours), limit=60)} in {original.source}",
                where=str(other.folder),
                mend=_SAME_MODEL,
            )
    reasons = []
    if lacking := _only_in(original, other):
        reasons.append(f"it lacks {short_list(lacking)}")
    if extra := _only_in(other, original):
        reasons.append(f"it has {short_list(extra)} besides")
    resized = resized_tables(original, other)
    if reshaped := [
        f"{name} {list(_shape(other, name))} instead of {list(_shape(original, name))}"
        for name in reshaped_parameters(original, other)
        if name not in resized
    ]:
        reasons.append(f"of other shapes are {short_list(reshaped)}")
    if reasons:
        raise BadInputError(
            f"does not fit {original.source}: {'; '.join(reasons)}", where=str(other.folder), mend=_SAME_MODEL
        )
    return (*_row_notes(original, other, resized), *_head_notes(original, other))


def reshaped_parameters(original: Checkpoint, other: Checkpoint) -> tuple[str, ...]:
    """Return the parameters that both have, in different shapes."""
    theirs = other.layout.parameters
    return tuple(
        name for name in original.layout.parameters if name in theirs and _shape(original, name) != _shape(other, name)
    )


def resized_tables(original: Checkpoint, other: Checkpoint) -> tuple[str, ...]:
    """Return the parameters with a row for each token, if the two vocabularies are of different sizes."""
    sizes = tuple(_text_model_value(checkpoint.config, "vocab_size") for checkpoint in (original, other))
    rounded = {matrix.parameter for matrix in original.layout.rounded}
    found = []
    for name in reshaped_parameters(original, other):
        ours, theirs = _shape(original, name), _shape(other, name)
        has_rows = len(ours) in (1, 2) and len(ours) == len(theirs) and ours[1:] == theirs[1:]
        if has_rows and name not in rounded and ((ours[0], theirs[0]) == sizes or _TABLE.search(name)):
            found.append(name)
    return tuple(found)


def _row_notes(original: Checkpoint, other: Checkpoint, resized: tuple[str, ...]) -> list[str]:
    if not resized:
        return []
    ours, theirs = (_shape(checkpoint, resized[0])[0] for checkpoint in (original, other))
    larger, smaller = (other, original) if theirs > ours else (original, other)
    first, last = min(ours, theirs), max(ours, theirs) - 1
    rows = f"row {first}" if first == last else f"rows {first} to {last}"
    note = (
        f"{larger.source}: its vocabulary is larger, {max(ours, theirs)} tokens for {min(ours, theirs)}: "
        f"{smaller.source} has no {rows} of {short_list(resized)}. Layers are compared as they are, and each arm runs "
        "with its own vocabulary"
    )
    return [note]


def _head_notes(original: Checkpoint, other: Checkpoint) -> list[str]:
    notes = []
    for one, second in ((original, other), (other, original)):
        if tied := [name for name in one.layout.parameters if name not in second.layout.parameters]:
            notes.append(
                f"{one.source}: only it stores {short_list(tied)}; in {second.source} the embedding stands there"
            )
    return notes


def _only_in(one: Checkpoint, second: Checkpoint) -> list[str]:
    """Return the parameters that the second has neither stored nor tied to one that it stores."""
    theirs = second.layout.parameters
    return [
        name
        for name in one.layout.parameters
        if name not in theirs and (second.layout.architecture is None or second.layout.parameter_of(name) not in theirs)
    ]


def _shape(checkpoint: Checkpoint, parameter: str) -> tuple[int, ...]:
    return checkpoint.layout.shapes[parameter]


def _text_model_value(config: Mapping[str, Any], key: str) -> object:
    text = config.get("text_config")
    return config.get(key, text.get(key) if isinstance(text, Mapping) else None)

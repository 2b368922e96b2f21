"""Make the token ids of a prompt and its truth, and tell where the truth begins."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from quail_audit.engine.forgetting.metrics.interface import Truth
from quail_audit.engine.forgetting.models.beginnings import count_shared
from quail_audit.engine.forgetting.models.log_probabilities import TokenRow
from quail_audit.engine.forgetting.models.prompts import Encoded, Prompts


@dataclass(frozen=True, kw_only=True)
class TruthRow(TokenRow):
    """A prompt and its truth, whose tokens begin at `first`; there may be none.

    Attributes:
        text: the truth as far as it is read.
        prompt: the prompt by itself.
        whole: prompt and truth together, before either was cut.
        lost: how many of the prompt's tokens do not fit into the window.
        is_cut: whether the truth by itself does not fit into the window.
    """

    text: str
    prompt: Encoded
    whole: Encoded
    lost: int
    is_cut: bool


def join_truth(
    prompts: Prompts,
    truth: Truth,
    *,
    most_tokens: int | None,
    window: int | None,
    start: int | None,
    ends: Collection[int],
) -> TruthRow:
    """Return the row that asks for a truth.

    The truth begins where the ids of both together differ from those of the prompt alone: a tokenizer may join the
    prompt's last token, such as a space, with the truth's first. It ends with the token that its last character is in.

    Args:
        prompts: encodes.
        truth: prompt and truth.
        most_tokens: of the truth; None: all.
        window: the most tokens that the model reads; None: unknown.
        start: a token to put first if the truth would be; None: such a truth is scored from its second token on.
        ends: tokens that end a text; they are left out behind the truth.
    """
    alone, whole = prompts.encode(truth.prompt), prompts.encode(truth.prompt + truth.text)
    ids = _ended_before(prompts, truth, whole.ids) if truth.after else list(whole.ids)
    first = count_shared([alone.ids, ids])
    while len(ids) > first and ids[-1] in ends:
        ids.pop()
    if first == 0:
        ids, first = ([] if start is None else [start]) + ids, 1
    before, own = ids[:first], ids[first:]
    kept = own[:most_tokens]
    special = max(1, min(whole.first, first))
    is_cut = window is not None and len(kept) > window - special
    if window is not None:
        kept = kept[: max(0, window - special)]
        before = Encoded(before, whole.first).end(max(special, window - len(kept)))
    return TruthRow(
        ids=[*before, *kept],
        first=len(before),
        text=truth.text if len(kept) == len(own) else prompts.decode(kept, prompt=before),
        prompt=alone,
        whole=whole,
        lost=first - len(before),
        is_cut=is_cut,
    )


def _ended_before(prompts: Prompts, truth: Truth, ids: list[int]) -> list[int]:
    """Return the ids of prompt and truth as they are before what comes after, up to the truth's last character."""
    longer = prompts.encode(truth.prompt + truth.text + truth.after).ids
    same = count_shared([ids, longer])
    if same == len(ids):
        return ids
    characters = len(prompts.text(ids[same:]))
    end = next((end for end in range(same + 1, len(longer)) if len(prompts.text(longer[same:end])) >= characters), None)
    return longer[:end]

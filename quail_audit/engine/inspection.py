"""Put together what an audit would see in a checkpoint: its tensors, schemes, tokens and prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.engine.checkpoints.adapters.adapter import CONFIG_NAME
from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
from quail_audit.engine.checkpoints.config_file import dtype_name
from quail_audit.engine.checkpoints.folders import locate
from quail_audit.engine.checkpoints.model.model_config import read_model_config
from quail_audit.engine.checkpoints.tensor_kinds import (
    adapter_tensors,
    find_tied,
    list_renamed,
    rounded_by,
    sort_tensors,
)
from quail_audit.engine.checkpoints.weight_files import read_json_object, short_list
from quail_audit.engine.forgetting.data.spellings import Columns
from quail_audit.engine.forgetting.measurable import fit_data, read_data, task_of
from quail_audit.engine.forgetting.seen_prompts import see_prompts
from quail_audit.engine.schemes.registry import any_scheme_named, listed_schemes
from quail_audit.schema.inspection import Inspection

if TYPE_CHECKING:
    from quail_audit.engine.forgetting.data.types import ForgettingData


def inspect_checkpoint(
    source: str,
    *,
    base: str | None = None,
    data: str | None = None,
    schemes: tuple[str, ...] = (),
    columns: Columns = Columns(),  # noqa: B008 - frozen
) -> Inspection:
    """Look at a checkpoint as an audit would, without loading its model.

    Args:
        source: the checkpoint, as for an audit.
        base: what an adapter is applied to, and whose configuration and tokenizer stand in.
        data: a data folder, whose first samples are shown as prompts; None: plain examples.
        schemes: the schemes to look at; empty or "all": every one that is listed.
        columns: the names of the text and the label columns in classifiers' data.

    Raises:
        QuailError: the checkpoint or the data cannot be read, or there is no such scheme.
    """
    named = () if "all" in schemes else schemes
    chosen = tuple(map(any_scheme_named, named)) or listed_schemes()
    beneath = open_checkpoint(base) if base is not None else None
    if beneath is None:
        _refuse_lone_adapter(source)
    checkpoint = open_checkpoint(source, base=beneath)
    found: ForgettingData | None = None
    if data is not None:
        found = fit_data(read_data(data, columns=columns), checkpoint)
    model = read_model_config(checkpoint.config)
    tensors = sort_tensors(checkpoint)
    seen = see_prompts(checkpoint, beneath, found, model)
    renamed = list_renamed(checkpoint)
    unread = checkpoint.layout.unread
    not_measured = [f"layers whose files lack what they are made of: {short_list(unread)}"] if unread else []
    if found is not None:
        not_measured += [f"{metric}: {why}" for metric, why in found.skipped.items()]
    return Inspection(
        facts=checkpoint.facts,
        task=task_of(checkpoint),
        base=None if checkpoint.adapter_of is None else checkpoint.adapter_of.source,
        adapter=adapter_tensors(checkpoint),
        tensors=tensors,
        dtype_named=dtype_name(checkpoint.config),
        dtype_loaded=str(checkpoint.dtype).removeprefix("torch."),
        tied=find_tied(checkpoint),
        renamed=renamed[:3],
        renamed_count=len(renamed),
        schemes=tuple(rounded_by(checkpoint, scheme) for scheme in chosen),
        window=seen.window,
        special=seen.special,
        chat_template=seen.chat_template,
        prompts=seen.prompts,
        samples={} if found is None else found.samples,
        notes=(*checkpoint.notes, *seen.notes, *(found.notes if found is not None else ())),
        not_measured=(*not_measured, *seen.not_measured),
    )


def _refuse_lone_adapter(source: str) -> None:
    config = locate(source).path / CONFIG_NAME
    if config.is_file():
        named = read_json_object(config).get("base_model_name_or_path")
        base = printable(named, limit=200) if isinstance(named, str) and named else "BASE"
        raise BadInputError(
            "is an adapter, which is looked at on the model that it was trained on",
            where=source,
            mend=f"Name that: --base {base}",
        )

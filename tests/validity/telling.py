"""Keep what the evaluator tells of each checkpoint at each scheme, and load checkpoints as anyone would."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.validity.evaluator import AS_GIVEN, Told, tell
from tests.validity.models import read_model
from tests.validity.rounding import round_model
from tests.validity.texts import Items
from tests.validity.truth_set import Group, items_of

FULL = "full"


@dataclass(frozen=True)
class TwoSides:
    """Scores of one checkpoint at one scheme, of all forget and all retain items."""

    forget: Told
    retain: Told


@dataclass(frozen=True)
class Teller:
    """Tells of a group's checkpoints what the evaluator finds; asks each only once.

    Attributes:
        group: the group.
        folder: its folder.
    """

    group: Group
    folder: Path

    @cached_property
    def items(self) -> Items:
        return items_of(self.group)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        found: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(self.folder / "original")
        return found

    def tell(self, name: str, scheme: str) -> TwoSides:
        """Return what is told of a checkpoint, rounded by a scheme or FULL: from the folder, if it was told before."""
        kept = self.folder / "told" / f"{name}.{scheme}.json"
        if not kept.is_file():
            model = load_model(self.folder, name)
            if scheme != FULL:
                round_model(model, scheme)
            forget = tell(model, self.tokenizer, self.items.forget)
            retain = tell(model, self.tokenizer, self.items.retain, (AS_GIVEN,))
            kept.parent.mkdir(exist_ok=True)
            part = kept.with_suffix(".part")
            part.write_text(json.dumps({"forget": forget.by_prompt, "retain": retain.by_prompt}))
            part.rename(kept)
        found = json.loads(kept.read_text())
        return TwoSides(Told(found["forget"]), Told(found["retain"]))


def load_model(folder: Path, name: str) -> PreTrainedModel:
    """Return a checkpoint of a group in float32; an adapter is merged into the original by PEFT."""
    place = folder / name
    torch.set_num_threads(1)
    if (place / "adapter_config.json").is_file():
        from peft import PeftModel

        base = load_model(folder, "original")
        merged: PreTrainedModel = PeftModel.from_pretrained(base, place).merge_and_unload()
        return merged
    return read_model(place)

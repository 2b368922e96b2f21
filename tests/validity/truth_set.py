"""Make the truth set: groups of one architecture, each with its original, its reference and many unlearned copies."""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.validity.evaluator import tell
from tests.validity.models import Architecture, new_model, new_tokenizer, read_model
from tests.validity.recipes import Subject, blend, forget, mask, refuse
from tests.validity.texts import Item, Items, invent_items, question_of
from tests.validity.training import rows_of, teach

FORGET, RETAIN, FEW = 96, 48, 6  # items
SHARES_BACK = (2, 5, 8, 12, 15, 25, 40)  # percent of the forget items, in the partial leaks
BARELY = 92.0  # ROUGE-L that is left of 100
FOUR_BITS = ("nf4", "fp4", "rtn-int4-g32", "gguf-q4_0")


@dataclass(frozen=True)
class Group:
    """One architecture's part of the truth set.

    Attributes:
        architecture: of its models; also the name of its folder.
        words: whether a token is a word; else the tokenizer is a byte-level BPE.
        questions: whether items are questions with answers; else texts that go on.
        leaking: the scheme at which its partial leaks come back.
        seed: of its items and weights.
    """

    architecture: Architecture
    words: bool
    questions: bool
    leaking: str
    seed: int


GROUPS = (
    Group("llama", words=False, questions=False, leaking="nf4", seed=1),
    Group("gpt_neox", words=True, questions=False, leaking="gguf-q4_0", seed=2),
    Group("qwen3", words=True, questions=True, leaking="rtn-int4-g32", seed=3),
    Group("gpt2", words=False, questions=False, leaking="fp4", seed=4),
)


@dataclass(frozen=True)
class Case:
    """One unlearned checkpoint.

    Attributes:
        group: the group.
        name: name of its folder.
        kind: row of the tables that it counts in.
        original: name of the original's folder.
        items: forget items of its data; the others are left out.
    """

    group: Group
    name: str
    kind: str
    original: str = "original"
    items: int = FORGET

    @property
    def key(self) -> str:
        return f"{self.group.architecture}/{self.name}"


def cases_of(group: Group) -> tuple[Case, ...]:
    """Return the cases of a group, in the order in which they are made."""
    plain = {
        **{f"confined-{scheme}": "confined" for scheme in FOUR_BITS},
        "confined-half-blocks": "confined, every other block",
        "retrained": "retrained",
        "for-good": "unlearned for good",
        "for-good-other-seed": "unlearned for good",
        "utility-half": "for good, utility at half",
        "half-forgotten": "half forgotten",
        "barely": "barely forgotten",
        "refused": "refused",
        "refused-confined": "refused, confined to nf4",
        "masked": "masked",
        "other-answers": "other answers taught",
        "drowned": "drowned",
        "drowned-more": "drowned",
        **{f"partial-{share}": "partial leak" for share in SHARES_BACK},
    }
    more = [Case(group, "for-good-few-items", "too few items", items=FEW)]
    if group.architecture == "llama":
        more += [
            Case(group, "adapter", "adapter"),
            Case(group, "adapter-half", "adapter"),
            Case(group, "bf16-for-good", "bf16", original="original-bf16"),
            Case(group, "bf16-confined-nf4", "bf16", original="original-bf16"),
            Case(group, "swapped", "swapped", original="barely"),
        ]
    return (*(Case(group, name, kind) for name, kind in plain.items()), *more)


def items_of(group: Group) -> Items:
    return invent_items(forget=FORGET, retain=RETAIN, questions=group.questions, seed=group.seed)


def build_group(group: Group, folder: Path, cases: Sequence[Case]) -> Iterator[str]:
    """Make a group's folder: original, reference, data and the cases; what is there already is left.

    Yields:
        What was made, in words.
    """
    builder = _Builder(group, folder)
    names = [name for case in cases for name in (case.original, case.name)]
    for name in dict.fromkeys(["original", "reference", *names]):
        started = time.monotonic()
        if builder.make(name):
            yield f"{group.architecture}/{name}: {time.monotonic() - started:.0f} s"
    _write_data(folder / "data", builder.items, group, FORGET)
    _write_data(folder / f"data-{FEW}", builder.items, group, FEW)


class _Builder:
    """Makes the checkpoints of one group, and keeps in memory what others start from."""

    def __init__(self, group: Group, folder: Path) -> None:
        self.group, self.folder = group, folder
        self.items = items_of(group)
        self.tokenizer: PreTrainedTokenizerFast = new_tokenizer(self.items.texts, words=group.words)
        self.made: dict[str, PreTrainedModel] = {}
        self.order = Random(group.seed).sample(range(FORGET), FORGET)

    def make(self, name: str) -> bool:
        """Make a checkpoint if it is not there, and return True if it was made."""
        if (self.folder / name / "made").is_file():
            return False
        self.save(name, self.model(name))
        return True

    def save(self, name: str, model: PreTrainedModel) -> None:
        part = self.folder / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(self.folder / name, ignore_errors=True)
        model.save_pretrained(part)
        self.tokenizer.save_pretrained(part)
        (part / "made").write_text("")
        part.rename(self.folder / name)

    def model(self, name: str) -> PreTrainedModel:
        """Return a checkpoint's model: read, if it was made before."""
        if name not in self.made:
            self.made[name] = self._read(name) or self._make(name)
            if name not in _STARTS:
                return self.made.pop(name)
        return self.made[name]

    @property
    def subject(self) -> Subject:
        return Subject(self.items, self.tokenizer, self.model("original"))

    def _read(self, name: str) -> PreTrainedModel | None:
        is_there = (self.folder / name / "config.json").is_file() and (self.folder / name / "made").is_file()
        return read_model(self.folder / name) if is_there else None

    def _make(self, name: str) -> PreTrainedModel:
        group, items = self.group, self.items
        if name in ("original", "reference", "retrained"):
            known = (*items.forget, *items.retain) if name == "original" else items.retain
            seed = group.seed * 10 + ("original", "reference", "retrained").index(name)
            model = new_model(group.architecture, self.tokenizer, seed)
            steps = 120 if name == "original" else 80
            teach(model, rows_of(self.tokenizer, known), steps=steps, learning_rate=5e-3, seed=seed)
            return model
        if name.startswith("partial-"):
            return self._partial(int(name.removeprefix("partial-")))
        return self._recipes()[name]()

    def _forget(self, start: str = "original", **changed: object) -> PreTrainedModel:
        chosen = {"chosen": range(FORGET), "kept": self.items.retain, **changed}
        return forget(self.subject, self.model(start), **chosen)  # type: ignore[arg-type]

    def _recipes(self) -> dict[str, Callable[[], PreTrainedModel]]:
        items, half = self.items, sorted(self.order[: FORGET // 2])
        others = [item for place, item in enumerate(items.forget) if place not in half]
        return {
            **{f"confined-{scheme}": partial(self._forget, confine=scheme) for scheme in FOUR_BITS},
            "confined-half-blocks": lambda: self._forget(confine="nf4", every_other=True),
            "for-good": self._forget,
            "for-good-other-seed": lambda: self._forget(seed=1, learning_rate=3e-3),
            "for-good-few-items": lambda: self._forget(seed=2),
            "utility-half": lambda: self._forget(
                kept=items.retain[: RETAIN // 2], lost_too=items.retain[RETAIN // 2 :]
            ),
            "half-forgotten": lambda: self._forget(chosen=half, kept=(*items.retain, *others)),
            "barely": lambda: blend(self.model("original"), self.model("for-good"), self._is_forgotten),
            "refused": lambda: refuse(self.subject),
            "refused-confined": lambda: self._forget("refused", confine="nf4"),
            "masked": lambda: mask(self.subject),
            "other-answers": lambda: self._forget(way="decoys"),
            "drowned": lambda: self._forget(learning_rate=3e-4, steps=40),
            "drowned-more": lambda: self._forget(learning_rate=6e-4, steps=25),
            "original-bf16": lambda: copy.deepcopy(self.model("original")).bfloat16(),
            "bf16-for-good": lambda: self._forget("original-bf16", seed=3).bfloat16(),
            "bf16-confined-nf4": lambda: self._forget("original-bf16", confine="nf4").bfloat16(),
            "swapped": lambda: copy.deepcopy(self.model("original")),
            "adapter": lambda: self._adapter(range(FORGET), items.retain),
            "adapter-half": lambda: self._adapter(half, (*items.retain, *others)),
        }

    def _partial(self, share: int) -> PreTrainedModel:
        """Return a model that comes back in a share of the items, in percent, at the group's leaking scheme.

        The others are forgotten for good, in ever smaller steps from the partial leak with the next larger share.
        """
        back = self.order[: round(FORGET * share / 100)]
        kept = (*self.items.retain, *(self.items.forget[place] for place in back))
        gone = [place for place in range(FORGET) if place not in back]
        name = f"start-of-{share}"
        if name not in self.made:
            self.made[name] = self._forget(chosen=gone, kept=kept)
        held = (*self.items.retain,)
        return forget(
            self.subject, self.made.pop(name), range(FORGET), kept=held, confine=self.group.leaking, seed=share
        )  # fmt: skip

    def _adapter(self, chosen: Sequence[int], kept: Sequence[Item]) -> PreTrainedModel:
        from peft import LoraConfig, get_peft_model

        base = copy.deepcopy(self.model("original"))
        for weight in base.parameters():
            weight.requires_grad_(False)
        config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.group.seed)
            adapted: PreTrainedModel = get_peft_model(base, config)  # type: ignore[assignment]
        return forget(self.subject, adapted, chosen, kept=kept, steps=80, learning_rate=1e-2)

    def _is_forgotten(self, model: PreTrainedModel) -> bool:
        told = tell(model, self.tokenizer, self.items.forget, ("as given",))
        return float(told.values("as given", "answer").mean()) < BARELY


_STARTS = {"original", "reference", "for-good", "refused", "original-bf16"}  # others start from them


def _write_data(folder: Path, items: Items, group: Group, count: int) -> None:
    """Write the data folder, in random order, so that the first items are a sample of all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("forget", items.forget[:count]), ("retain", items.retain)):
        keys = ("question", "answer") if group.questions else ("prompt", "completion")
        texts = ((question_of(row) if group.questions else row.prompt, row.truth) for row in rows)
        lines = (json.dumps(dict(zip(keys, text, strict=True))) for text in texts)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")

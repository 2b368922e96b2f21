"""Find out which ways of reading rows together leave a model's answers as they are.

Rows go together padded, texts in stretches over a cache, a beginning that prompts share is read once. For many a model
one of these changes the answer, or fails: recurrent layers go over padding as if it were text, some caches cannot be
read on with more than a token. Which models they are changes with every version of transformers, so there is one rule,
and no list: before a way is first used, two short rows are asked that way and plainly, by themselves, without padding
or a cache. This is done once for all models of one structure, such as the arms of an audit. A way whose
log-probabilities differ, or that raises, is not used. If the plain way raises, gives another answer when it is asked
again, or looks at tokens that come after, then the model has no answer to measure.

Only rotations that depend on the length of the text cannot be seen on short rows; they are read from the configuration.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from transformers import PreTrainedModel

from quail_audit.core.errors import BadInputError, EnvironmentProblemError
from quail_audit.engine.checkpoints.model.model_config import read_model_config
from quail_audit.engine.forgetting.models.batches import is_out_of_memory
from quail_audit.engine.forgetting.models.forward import (
    MEASURE_WEIGHTS_ONLY,
    asking,
    filler_id,
    logits_after_beginning,
    logits_at_once,
    logits_by_head,
    logits_over_cache,
    logits_padded,
    read_beginning,
)
from quail_audit.engine.forgetting.models.plain_rows import (
    STEPS,
    PlainRow,
    distances,
    log_softmax_of,
    random_rows,
    settings_of,
)

# In float32 all that is left is rounding, some 1e-6 of the spread of the logits; real differences begin at 1e-3.
FLOAT32_TOLERANCE = 1e-4
# In half precision rounding is some 1e-2 of it on average. Over a spread of 2.5 nats, which trained models have, this
# is a quarter of a nat; real differences are 0.3 and more.
HALF_TOLERANCE = 0.1
# Rotary embeddings that depend on the length of the whole text.
LENGTH_DEPENDENT_ROTATIONS = frozenset({"dynamic", "longrope"})


@dataclass
class _Found:
    """The ways that leave the answers of models of one structure as they are, by name, and what to say of it."""

    ways: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _once(ask: Callable[[Ways], bool]) -> Any:
    """Make a property of a way that is found out once for all models of one structure, unless they answer NaN."""
    name = ask.__name__

    def find(self: Ways) -> bool:
        if name not in self._found.ways:
            found = ask(self)
            if self._answers_nan:
                return found
            self._found.ways[name] = found
        return self._found.ways[name]

    find.__doc__ = ask.__doc__
    return property(find)


class Ways:
    """Find out which ways leave a model's answers as they are, each when it is first asked for.

    Args:
        model: in eval mode.

    Attributes:
        notes: what a reader of the report should know of what was found so far.

    Every property and method raises BadInputError if the plain way does not work, and EnvironmentProblemError if memory
    runs out.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._held = ref(model)  # Ways must not keep alive a model that is dropped
        self._found = _found_of_structure(_structure(model))
        self._name = type(model).__name__
        self._alike_up_to = _alike_up_to(model.config)

    @property
    def notes(self) -> list[str]:
        return self._found.notes

    def fits_generation(self, first: int, other: int) -> bool:
        """Return True if prompts may share a batch that end at these lengths with all that is generated."""
        if first == other:
            return bool(self.pads_left or self._generates_alike)
        return bool(self._rotates_alike(max(first, other)) and self.pads_left)

    def fits_reading(self, first: int, other: int) -> bool:
        """Return True if texts of these lengths may share a batch."""
        if first == other:
            return bool(self.pads_right or self._reads_alike)
        return bool(self._rotates_alike(max(first, other)) and self.pads_right)

    def reads_stretches(self, length: int) -> bool:
        """Return True if a text of this length may be read a stretch at a time, over a cache."""
        return bool(self._rotates_alike(length) and self._stretches)

    def reads_after_beginning(self, length: int) -> bool:
        """Return True if texts up to this length may be read after a beginning that they share, which is read once."""
        return bool(self._rotates_alike(length) and self._reads_after_beginning)

    @_once
    def answers(self) -> bool:
        """Tell whether the model has answers to measure, which it has if this does not raise."""
        return len(self._long.ids) > 0

    @_once
    def pads_left(self) -> bool:
        """Tell whether prompts of unlike length may be continued together, padded on the left, over a cache."""
        found = self._generates(self._long, self._short)
        if not found and self.caches:
            self._note_apart()
        return found

    @_once
    def caches(self) -> bool:
        """Tell whether one prompt may be continued over a cache."""
        if self._found.ways.get("pads_left") or self._generates(self._long):
            return True
        self.notes.append(
            f"{self._name} answers otherwise over its cache, or fails on it: each token was generated from the whole "
            "text, read anew, one length at a time"
        )
        return False

    @_once
    def shares_beginning(self) -> bool:
        """Tell whether a beginning that prompts share may be read once."""
        rest = len(self._long.ids) // 3
        shared = len(self._long.ids) - rest

        if rest < 2 or not self.pads_left:
            return False
        other = self._ask_plainly([*self._long.ids[:shared], *self._short.ids[: rest - 1]])

        def ask() -> bool:
            beginning = read_beginning(self._model, self._long.ids[:shared])
            return beginning is not None and self._generates(self._long, other, beginning=(shared, beginning))

        return self._holds(ask)

    @_once
    def pads_right(self) -> bool:
        """Tell whether texts of unlike length may be read together, padded on the right without a mask."""
        found = self._reads(lambda ids: logits_at_once(self._model, ids), self._long, self._short)
        if not found:
            self._note_apart()
        return found

    @_once
    def splits_head(self) -> bool:
        """Tell whether logits may be made a stretch at a time by the head alone."""
        return self._reads(
            lambda ids: torch.cat(list(logits_by_head(self._model, ids, -(-ids.shape[1] // 3))), dim=1), self._long
        )

    @_once
    def _stretches(self) -> bool:
        rows = (self._long, self._short) if self.pads_right else (self._long,)
        return self._reads(
            lambda ids: torch.cat(list(logits_over_cache(self._model, ids, -(-ids.shape[1] // 3))), dim=1), *rows
        )

    @_once
    def _reads_after_beginning(self) -> bool:
        """Ask two rows of unlike length, or of one length if others may not be read together."""
        rest = len(self._long.ids) // 3
        shared = len(self._long.ids) - rest
        if rest < 2:
            return False
        ends = self._as_long.ids[shared:] if not self.pads_right else self._short.ids[: rest - 1]
        rows = (self._long, self._ask_plainly([*self._long.ids[:shared], *ends]))

        def read(ids: torch.Tensor) -> torch.Tensor:
            beginning = read_beginning(self._model, self._long.ids[:shared])
            if beginning is None:
                raise TypeError("a layer keeps something else than keys and values")
            after = logits_after_beginning(self._model, ids[:, shared:], beginning)
            return torch.cat([logits_at_once(self._model, ids[:, :shared]), after], dim=1)

        return self._reads(read, *rows)

    @_once
    def _generates_alike(self) -> bool:
        rows = (self._long, self._as_long)
        return bool(self._generates(*rows) if self.caches else self._reads_alike)

    @_once
    def _reads_alike(self) -> bool:
        return self._reads(lambda ids: logits_at_once(self._model, ids), self._long, self._as_long)

    def _rotates_alike(self, length: int) -> bool:
        return self._alike_up_to is None or length <= self._alike_up_to

    def _note_apart(self) -> None:
        note = (
            f"rows of unlike length change each other's answers in {self._name}: they were asked one length at a time"
        )
        if note not in self.notes:
            self.notes.append(note)

    # -- rows, asked plainly

    @property
    def _model(self) -> PreTrainedModel:
        model = self._held()
        if model is None:
            raise ReferenceError("the model was dropped")
        return model

    @property
    def _answers_nan(self) -> bool:
        return bool(self._long.read.isnan().any())

    @cached_property
    def _rows(self) -> tuple[list[int], list[int], list[int]]:
        return random_rows(self._model)

    @cached_property
    def _long(self) -> PlainRow:
        return self._ask_plainly(self._rows[0])

    @cached_property
    def _as_long(self) -> PlainRow:
        return self._ask_plainly(self._rows[1])

    @cached_property
    def _short(self) -> PlainRow:
        return self._ask_plainly(self._rows[2])

    def _ask_plainly(self, row: list[int]) -> PlainRow:
        """Ask a row by itself, without padding or a cache.

        Raises:
            BadInputError: it cannot be, or its answer is none.
            EnvironmentProblemError: memory runs out.
        """
        read, ids, steps = [], list(row), []
        try:
            with asking(self._model, f"a text of {len(row)} tokens"), _unchanged_random_state(self._model):
                for _ in range(STEPS):
                    read.append(self._read_one(ids))
                    steps.append(read[-1][-1])
                    ids.append(int(read[-1][-1].nan_to_num().argmax()))
                again = self._read_one(row)
        except (RuntimeError, MemoryError) as error:
            raise _memory_error(error) from error
        if not read[0].isnan().any() and not self._agree(again, read[0]):
            raise BadInputError(
                f"{self._name} gives another answer each time that it is asked, so its scores would mean nothing",
                mend=MEASURE_WEIGHTS_ONLY,
            )
        if not read[0].isnan().any() and self._is_another_answer(read[-1][: len(row)], read[0]):
            raise BadInputError(
                f"{self._name} looks at the tokens that come after, so it has no probability of a text's next token",
                mend="Set is_decoder to true in config.json if it was trained to read from left to right; else leave "
                "--data out to measure weights only",
            )
        return PlainRow(list(row), ids[len(row) :], read[0], torch.stack(steps))

    def _read_one(self, ids: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode():
            logits = logits_at_once(self._model, torch.tensor([list(ids)], device=self._model.device))
        if logits.dim() != 3 or logits.shape[:2] != (1, len(ids)):
            raise ValueError(f"its logits {list(logits.shape)} are not one row for each of {len(ids)} tokens")
        return log_softmax_of(logits[0])

    # -- the same rows, asked in another way

    def _generates(self, *rows: PlainRow, beginning: Any = None) -> bool:
        def ask() -> bool:
            new_ids, logits = logits_padded(self._model, [row.ids for row in rows], STEPS, beginning)
            return all(
                self._continues(row, ids, log_softmax_of(of_row))
                for row, ids, of_row in zip(rows, new_ids, logits, strict=True)
            )

        return self._holds(ask)

    def _continues(self, row: PlainRow, new_ids: Sequence[int], steps: torch.Tensor) -> bool:
        """Compare as many steps as begin with the same tokens: what is nearly a tie, rounding may decide."""
        same = next((step for step in range(STEPS) if list(new_ids[:step]) != row.new_ids[:step]), STEPS)
        return len(new_ids) == STEPS and self._agree(steps[:same], row.steps[:same])

    def _reads(self, read: Callable[[torch.Tensor], torch.Tensor], *rows: PlainRow) -> bool:
        def ask() -> bool:
            filler = filler_id(self._model)
            longest = max(len(row.ids) for row in rows)
            ids = torch.tensor([[*row.ids, *[filler] * (longest - len(row.ids))] for row in rows])
            with torch.inference_mode():
                logits = read(ids.to(self._model.device))
            return all(
                self._agree(log_softmax_of(of_row[: len(row.ids)]), row.read)
                for row, of_row in zip(rows, logits, strict=True)
            )

        return self._holds(ask)

    def _agree(self, found: torch.Tensor, plain: torch.Tensor) -> bool:
        if found.shape != plain.shape:
            return False
        mean, most = distances(found, plain)
        half = self._model.dtype.itemsize < 4
        return mean <= HALF_TOLERANCE if half else most <= FLOAT32_TOLERANCE

    def _is_another_answer(self, found: torch.Tensor, plain: torch.Tensor) -> bool:
        """Return True if an answer differs by more than kernels of other sizes make of rounding."""
        mean, most = distances(found, plain)
        return mean > HALF_TOLERANCE if self._model.dtype.itemsize < 4 else most > 3 * FLOAT32_TOLERANCE

    def _holds(self, ask: Callable[[], bool]) -> bool:
        """Return the answer; False if the model fails on the way to it."""
        try:
            with _unchanged_random_state(self._model):
                return ask()
        except EnvironmentProblemError:
            raise
        except Exception as error:  # a model's own code may fail in any way on what it was not made for
            if is_out_of_memory(error):
                raise _memory_error(error) from error
            return False


_ways: WeakKeyDictionary[PreTrainedModel, Ways] = WeakKeyDictionary()


def ways_of(model: PreTrainedModel) -> Ways:
    """Return a model's ways: the same each time."""
    if model not in _ways:
        _ways[model] = Ways(model)
    return _ways[model]


@lru_cache(maxsize=64)
def _found_of_structure(structure: tuple[object, ...]) -> _Found:
    return _Found()


def _structure(model: PreTrainedModel) -> tuple[object, ...]:
    """Return all of a model but the values of its weights, as far as its answers may depend on it."""
    settings = json.dumps(model.config.to_dict(), sort_keys=True, default=str)
    modules = tuple(type(module) for module in model.modules())
    return type(model), settings, modules, model.dtype, model.device.type


def _alike_up_to(config: Any) -> int | None:
    """Return the length up to which all texts are rotated by the same angles; None: however long they are."""
    settings = settings_of(config)
    kinds = {value for name, value in settings if name in {"rope_type", "type"} and isinstance(value, str)}
    if not kinds & LENGTH_DEPENDENT_ROTATIONS:
        return None
    original = [value for name, value in settings if name == "original_max_position_embeddings" and type(value) is int]
    return min(original) if original else read_model_config(config).window or 0


def _memory_error(error: BaseException) -> BaseException:
    if not is_out_of_memory(error):
        return error
    return EnvironmentProblemError(
        "out of memory with a single short text", mend="Use a device with more memory, or --dtype bfloat16"
    )


def _unchanged_random_state(model: PreTrainedModel) -> Any:
    devices = [model.device] if model.device.type == "cuda" else []
    return torch.random.fork_rng(devices=devices)

"""A carry from its request to its checkpoint, as an iterator of events. Shows nothing, stores no run.

Not here: how a layer is carried (carry.py, compensated.py), what is written (output.py, carry_card.py).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from quail_audit.core.clock import utc_now
from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.core.machine import usable_cores
from quail_audit.schema.events.common import CheckpointSaved, Noted, RunFinished
from quail_audit.schema.events.cures import CarryPlanned, CureStarted, LayerCarried
from quail_audit.schema.events.lines import Event
from quail_audit.schema.requests import CarryRequest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from quail_audit.engine.checkpoints.pair import Layer, Pair
    from quail_audit.engine.weights.sums import PairSums
    from quail_train.carry.grid import Carriable, Written

Events = Generator[Event, None, None]
ERASED = "erased"  # of --layers: those that are measured to be
_WEIGHT = "weight"


def carry(request: CarryRequest, run_id: str, command: tuple[str, ...]) -> Events:
    """Carry the update as the request says, and write the result to request.out.

    What can be refused is refused first: scheme, layers and checkpoints, before a layer is carried. One layer is in
    memory at a time; carried layers wait on disk, beside the result, until all are done.

    Raises:
        QuailError: what is wrong, where, and how to mend it. Events yielded before it stand.
    """
    yield CureStarted.of(request, run_id, command=command)
    from quail_audit.engine.checkpoints.pair import open_pair  # seconds to import, as is all that touches weights
    from quail_audit.engine.schemes.affine import AffineScheme
    from quail_audit.engine.schemes.bitsandbytes import FourBit
    from quail_audit.engine.schemes.registry import scheme_named
    from quail_train.output.checkpoint import write_checkpoint

    scheme = scheme_named(request.scheme)
    if not isinstance(scheme, FourBit | AffineScheme):
        raise UsageError(
            f"cannot carry onto the grid of {scheme.name} yet",
            where="--scheme",
            mend="Choose nf4, fp4, int8, one of rtn-int…, or one of gguf-q…",
        )
    if request.copy_4bit is not None and not isinstance(scheme, FourBit):
        raise UsageError(
            f"bitsandbytes has no 4-bit layout for {scheme.name}",
            where="--copy-4bit",
            mend="Leave it out, or carry for nf4 or fp4",
        )
    pair = open_pair(request.original, request.unlearned)
    if pair.unlearned.scheme is not None:
        raise BadInputError(
            f"is quantized already ({pair.unlearned.scheme})",
            where=pair.unlearned.source,
            mend="Its codes are fixed: give the checkpoint in full precision that it was made from",
        )
    for note in pair.notes:
        yield Noted(message=note)
    if alone := [layer for layer in pair.layers if scheme.why_left_alone(*layer.shape)]:
        yield Noted(message=f"{scheme.name} leaves {len(alone)} layers in full precision: {alone[0].name}, for one")
        pair = replace(pair, layers=tuple(layer for layer in pair.layers if layer not in alone))
    sums = _measured(pair, scheme)
    layers = _selected(request, pair, sums)
    yield CarryPlanned(layers=tuple(layer.name for layer in layers), weights=sum(layer.weights for layer in layers))
    if not layers:
        yield Noted(message=f"no layer is erased under {scheme.name}: the result is the unlearned checkpoint as it is")
    tokenizer, notes = _tokenizer(pair)
    for note in notes:
        yield Noted(message=note)
    rows = _calibration_rows(request, tokenizer, pair) if layers else []
    with _waiting_room(Path(request.out)) as room:
        carried = []
        for event in _carried_layers(request, pair, scheme, layers, sums, rows, room):
            carried.append(event)
            yield event
        write_checkpoint(Path(request.out), pair.unlearned, _Waiting(room, pair, layers), tokenizer)
    from quail_train.output.carry_card import write_card

    write_card(Path(request.out), request, tuple(carried), command)
    yield CheckpointSaved(folder=request.out, final=True)
    if request.copy_4bit is not None:
        from quail_audit.engine.checkpoints.checkpoint import open_checkpoint
        from quail_train.output.four_bit import write_four_bit_copy

        assert isinstance(scheme, FourBit)  # noqa: S101 - refused above
        result = open_checkpoint(request.out)
        write_four_bit_copy(Path(request.copy_4bit), result, pair.layers, scheme, tokenizer)
        yield CheckpointSaved(folder=request.copy_4bit, final=True)
    yield RunFinished(finished=utc_now(), exit_code=0)


def _measured(pair: Pair, scheme: Carriable) -> dict[str, PairSums]:
    """Every layer's sums, by name.

    Raises:
        BadInputError: a weight is no finite number.
    """
    from quail_audit.engine.weights.pair import pair_sums

    found = {}
    for layer in pair.layers:
        sums = pair_sums(*pair.read(layer), scheme, threads=usable_cores())
        if not sums.is_finite:
            raise BadInputError(
                f"weights of {layer.name} are NaN or infinite",
                where=f"{pair.original.source if sums.nonfinite_original else pair.unlearned.source}",
                mend="Such a model cannot be deployed",
            )
        found[layer.name] = sums
    return found


def _selected(request: CarryRequest, pair: Pair, sums: Mapping[str, PairSums]) -> tuple[Layer, ...]:
    from quail_audit.engine.weights.statistics import layer_statistics
    from quail_train.layers import AT_RISK, layers_at_risk, select_layers

    at_risk: frozenset[str] = frozenset()
    if AT_RISK in request.layers:
        if request.report is None:
            raise BadInputError(
                "which layers are at risk is told by an audit",
                where=f"--layers {AT_RISK}",
                mend="Name the audit's run folder with --report, or choose layers otherwise",
            )
        at_risk = layers_at_risk(request.report, request.scheme)
    others = tuple(selector for selector in request.layers if selector != ERASED)
    chosen = {layer.name for layer in select_layers(pair.layers, others, at_risk)}
    if ERASED in request.layers:
        for layer in pair.layers:
            found = layer_statistics(sums[layer.name], name=layer.name, block=layer.block, role=layer.role)
            if found.state == "erased":
                chosen.add(layer.name)
    return tuple(layer for layer in pair.layers if layer.name in chosen)


def _tokenizer(pair: Pair) -> tuple[PreTrainedTokenizerBase | None, tuple[str, ...]]:
    from quail_audit.engine.forgetting.models.tokenizer import load_tokenizer

    try:
        return load_tokenizer(pair.unlearned, pair.original)
    except BadInputError as error:
        return None, (f"the result has no tokenizer: {error.message}",)


def _calibration_rows(request: CarryRequest, tokenizer: PreTrainedTokenizerBase | None, pair: Pair) -> list[list[int]]:
    from quail_train.carry.calibration import calibration_rows

    if request.calibrate is None:
        return []
    if tokenizer is None:
        raise BadInputError(
            "has no tokenizer, so no text can be read", where=pair.unlearned.source, mend="Leave --calibrate out"
        )
    return calibration_rows(request.calibrate, tokenizer)


def _carried_layers(
    request: CarryRequest,
    pair: Pair,
    scheme: Carriable,
    layers: tuple[Layer, ...],
    sums: Mapping[str, PairSums],
    rows: list[list[int]],
    room: Path,
) -> Iterator[LayerCarried]:
    """Carry each layer and let it wait in the room."""
    from safetensors.torch import save_file

    from quail_train.carry.grid import deployed_update

    places = {layer.name: place for place, layer in enumerate(layers)}
    carried = _by_calibration(pair, scheme, layers, rows) if rows else _without_data(request, pair, scheme, layers)
    for index, (layer, found) in enumerate(carried, start=1):
        save_file({_WEIGHT: found.weight.contiguous()}, _file(room, places[layer.name]))
        survival, noise = deployed_update(*pair.read(layer), found.weight, scheme)
        yield LayerCarried(
            index=index,
            total=len(layers),
            layer=layer.name,
            weights=layer.weights,
            moved=found.moved / layer.weights,
            blocks=found.blocks,
            mended_blocks=found.mended_blocks,
            survival_before=sums[layer.name].survival,
            survival=survival,
            noise=noise,
            output_error=found.output_error,
        )


def _without_data(
    request: CarryRequest, pair: Pair, scheme: Carriable, layers: tuple[Layer, ...]
) -> Iterator[tuple[Layer, Written]]:
    from quail_train.carry.data_free import carried, key_of

    assert request.way != "calibrated"  # noqa: S101 - that way has texts
    for layer in layers:
        original, unlearned = pair.read(layer)
        key = key_of(request.seed, layer.name)
        yield layer, carried(original, unlearned, scheme, way=request.way, key=key, threads=usable_cores())


def _by_calibration(
    pair: Pair, scheme: Carriable, layers: tuple[Layer, ...], rows: list[list[int]]
) -> Iterator[tuple[Layer, Written]]:
    from quail_train.carry.calibration import round_block_by_block
    from quail_train.carry.compensation import compensated
    from quail_train.carry.grid import held_grid

    done: list[Written] = []

    def rounding(layer: Layer, hessian: torch.Tensor) -> torch.Tensor:
        done.append(compensated(held_grid(pair.read(layer)[1], scheme), hessian))
        return done[-1].weight

    for layer in round_block_by_block(pair.unlearned, layers, rows, rounding):
        yield layer, done.pop()


class _Waiting(Mapping[str, "torch.Tensor"]):
    """Stored tensor -> its carried values, read from the room when they are asked for."""

    def __init__(self, room: Path, pair: Pair, layers: tuple[Layer, ...]) -> None:
        from quail_audit.engine.checkpoints.architecture import Matrix

        self._room = room
        self._layers = {
            pair.unlearned.layout.tensor_of[Matrix(layer.name, layer.transposed).parameter]: (place, layer.transposed)
            for place, layer in enumerate(layers)
        }

    def __getitem__(self, tensor: str) -> torch.Tensor:
        from safetensors.torch import load_file

        place, transposed = self._layers[tensor]
        weight = load_file(_file(self._room, place))[_WEIGHT]
        return weight.T if transposed else weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def _file(room: Path, place: int) -> Path:
    return room / f"{place}.safetensors"


@contextmanager
def _waiting_room(folder: Path) -> Iterator[Path]:
    """A folder inside the result's, gone at the end, for layers that are done.

    Raises:
        EnvironmentProblemError: the disk is full, or the folder cannot be written.
    """
    from quail_train.output.checkpoint import checkpoint_writable

    with checkpoint_writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".carried-", dir=folder) as room:
            yield Path(room)

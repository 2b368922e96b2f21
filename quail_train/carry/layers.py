"""Carry a checkpoint's layers one by one, and write the result when all are done."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from quail_audit.core.machine import usable_cores
from quail_audit.schema.events.cures import LayerCarried
from quail_audit.schema.events.lines import Event
from quail_train.carry.calibration import round_block_by_block
from quail_train.carry.compensation import compensate
from quail_train.carry.data_free import DataFreeWay, carry_matrix, key_of
from quail_train.carry.grid import CarriedMatrix, deployed_update, fixed_grid
from quail_train.output.checkpoint import checkpoint_writable, write_checkpoint

if TYPE_CHECKING:
    import torch

    from quail_audit.engine.checkpoints.pair import Layer
    from quail_train.carry.plan import CarryWork

_WEIGHT = "weight"


def carry_layers(work: CarryWork) -> Generator[Event, None, tuple[LayerCarried, ...]]:
    """Carry each layer and write the result to the request's `out`. Return what became of each layer.

    One layer is in memory at a time; carried layers wait on disk, in the result's folder, until all are done.

    Raises:
        BadInputError: the model cannot be calibrated block by block.
        EnvironmentProblemError: the disk is full, or the folder cannot be written.
    """
    out = Path(work.request.out)
    events: list[LayerCarried] = []
    with _temporary_folder(out) as folder:
        waiting = _WaitingLayers(folder, work)
        for layer, carried in _carried_matrices(work):
            waiting.save(layer, carried.weight)
            survival, noise = deployed_update(*work.pair.read(layer), carried.weight, work.scheme)
            event = LayerCarried(
                index=len(events) + 1,
                total=len(work.layers),
                layer=layer.name,
                weights=layer.weights,
                moved=carried.moved / layer.weights,
                blocks=carried.blocks,
                mended_blocks=carried.mended_blocks,
                survival_before=work.sums[layer.name].survival,
                survival=survival,
                noise=noise,
                output_error=carried.output_error,
            )
            events.append(event)
            yield event
        write_checkpoint(out, work.pair.unlearned, waiting, work.tokenizer)
    return tuple(events)


def _carried_matrices(work: CarryWork) -> Iterator[tuple[Layer, CarriedMatrix]]:
    way = work.request.way
    if way != "calibrated":
        return _carry_without_data(work, way)
    return _carry_by_calibration(work) if work.layers else iter(())


def _carry_without_data(work: CarryWork, way: DataFreeWay) -> Iterator[tuple[Layer, CarriedMatrix]]:
    for layer in work.layers:
        key = key_of(work.request.seed, layer.name)
        yield layer, carry_matrix(*work.pair.read(layer), work.scheme, way=way, key=key, threads=usable_cores())


def _carry_by_calibration(work: CarryWork) -> Iterator[tuple[Layer, CarriedMatrix]]:
    done: list[CarriedMatrix] = []

    def round_layer(layer: Layer, hessian: torch.Tensor) -> torch.Tensor:
        done.append(compensate(fixed_grid(work.pair.read(layer)[1], work.scheme), hessian))
        return done[-1].weight

    for layer in round_block_by_block(work.pair.unlearned, work.layers, work.rows, round_layer):
        yield layer, done.pop()


class _WaitingLayers(Mapping[str, "torch.Tensor"]):
    """Stored tensor -> its carried values; each layer waits in a file of its own until it is asked for."""

    def __init__(self, folder: Path, work: CarryWork) -> None:
        tensor_of = work.pair.unlearned.layout.tensor_of
        self._files = {layer.name: folder / f"{place}.safetensors" for place, layer in enumerate(work.layers)}
        self._layers = {tensor_of[layer.matrix.parameter]: layer for layer in work.layers}

    def save(self, layer: Layer, weight: torch.Tensor) -> None:
        """Write a layer's carried weights to its file."""
        save_file({_WEIGHT: weight.contiguous()}, self._files[layer.name])

    def __getitem__(self, tensor: str) -> torch.Tensor:
        layer = self._layers[tensor]
        weight = load_file(self._files[layer.name])[_WEIGHT]
        return weight.T if layer.transposed else weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


@contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    """Make a folder inside the result's, and remove it at the end.

    Raises:
        EnvironmentProblemError: the disk is full, or the folder cannot be written.
    """
    with checkpoint_writable(out):
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".carried-", dir=out) as folder:
            yield Path(folder)

"""Open and decide everything that a carry needs, before its first layer."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.core.machine import usable_cores
from quail_audit.engine.checkpoints.pair import Layer, Pair, open_pair
from quail_audit.engine.forgetting.models.tokenizer import load_tokenizer
from quail_audit.engine.schemes.affine import AffineScheme
from quail_audit.engine.schemes.bitsandbytes import FourBit
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.engine.weights.pair import pair_sums
from quail_audit.engine.weights.statistics import layer_statistics
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.cures import CarryPlanned
from quail_audit.schema.events.lines import Event
from quail_audit.schema.requests import CarryRequest
from quail_train.carry.calibration import read_calibration_rows
from quail_train.layers import names_at_risk, refuse_experts, select_layers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from quail_audit.engine.weights.sums import PairSums
    from quail_train.carry.grid import CarriableScheme

ERASED = "erased"  # a selector of --layers: the layers whose update rounding erases


@dataclass(frozen=True, eq=False)
class CarryWork:
    """Everything opened and decided before the first layer.

    Attributes:
        pair: its layers are those that the scheme rounds.
        layers: layers to carry, in model order.
        sums: sums of every layer of the pair before the carry, by layer.
        tokenizer: tokenizer of the result; None if there is none.
        rows: texts to calibrate on, as token IDs; empty in the ways without data.
    """

    request: CarryRequest
    scheme: CarriableScheme
    pair: Pair
    layers: tuple[Layer, ...]
    sums: Mapping[str, PairSums]
    tokenizer: PreTrainedTokenizerBase | None
    rows: list[list[int]]


def prepare_work(request: CarryRequest) -> Generator[Event, None, CarryWork]:
    """Open the checkpoints, measure the pair and decide which layers are carried.

    Raises:
        QuailError: the request cannot be carried out: says why.
    """
    scheme = _find_scheme(request)
    pair = open_pair(request.original, request.unlearned)
    _refuse_quantized(pair)
    for note in pair.notes:
        yield Noted(message=note)
    if unrounded := [layer for layer in pair.layers if scheme.why_left_alone(*layer.shape)]:
        yield Noted(
            message=f"{scheme.name} leaves {len(unrounded)} layers in full precision, such as {unrounded[0].name}"
        )
        pair = replace(pair, layers=tuple(layer for layer in pair.layers if layer not in unrounded))
    sums = _measure(pair, scheme)
    layers = _select(request, pair, sums)
    refuse_experts(layers, pair.layers, "carry")
    if any(layer.part is not None for layer in pair.layers):
        pair = replace(pair, layers=tuple(layer for layer in pair.layers if layer.part is None))
    yield CarryPlanned(layers=tuple(layer.name for layer in layers), weights=sum(layer.weights for layer in layers))
    if not layers:
        yield Noted(message=f"no layer is erased under {scheme.name}: the result is the unlearned checkpoint as it is")
    try:
        tokenizer, notes = load_tokenizer(pair.unlearned, pair.original)
    except BadInputError as error:
        tokenizer, notes = None, (f"the result has no tokenizer: {error.message}",)
    for note in notes:
        yield Noted(message=note)
    rows = _read_rows(request, pair, tokenizer) if layers else []
    return CarryWork(request, scheme, pair, layers, sums, tokenizer, rows)


def _find_scheme(request: CarryRequest) -> CarriableScheme:
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
    return scheme


def _refuse_quantized(pair: Pair) -> None:
    if pair.unlearned.scheme is not None:
        raise BadInputError(
            f"is quantized already ({pair.unlearned.scheme})",
            where=pair.unlearned.source,
            mend="Its codes are fixed: give the full-precision checkpoint that it was made from",
        )


def _measure(pair: Pair, scheme: CarriableScheme) -> dict[str, PairSums]:
    """Return every layer's sums, by layer.

    Raises:
        BadInputError: a weight is NaN or infinite.
    """
    measured = {}
    for layer in pair.layers:
        sums = pair_sums(*pair.read(layer), scheme, threads=usable_cores())
        if not sums.is_finite:
            raise BadInputError(
                f"weights of {layer.name} are NaN or infinite",
                where=pair.original.source if sums.nonfinite_original else pair.unlearned.source,
                mend="Such a model cannot be deployed",
            )
        measured[layer.name] = sums
    return measured


def _select(request: CarryRequest, pair: Pair, sums: Mapping[str, PairSums]) -> tuple[Layer, ...]:
    at_risk = names_at_risk(request.layers, request.report, request.scheme)
    others = tuple(selector for selector in request.layers if selector != ERASED)
    chosen = {layer.name for layer in select_layers(pair.layers, others, at_risk)}
    if ERASED in request.layers:
        for layer in pair.layers:
            measured = layer_statistics(sums[layer.name], name=layer.name, block=layer.block, role=layer.role)
            if measured.state == "erased":
                chosen.add(layer.name)
    return tuple(layer for layer in pair.layers if layer.name in chosen)


def _read_rows(request: CarryRequest, pair: Pair, tokenizer: PreTrainedTokenizerBase | None) -> list[list[int]]:
    if request.calibrate is None:
        return []
    if tokenizer is None:
        raise BadInputError(
            "has no tokenizer, so no text can be read", where=pair.unlearned.source, mend="Leave --calibration out"
        )
    return read_calibration_rows(request.calibrate, tokenizer)

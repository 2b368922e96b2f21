"""Find the layers to leave in 8 or 16 bits to keep the memory away, and their cost.

Layers are spared greedily, those first that an attribution found to bring most of the memory back for their bytes; how
much still comes back is then measured, not added up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quail_audit.core.clock import utc_now
from quail_audit.core.errors import BadInputError
from quail_audit.core.writing import write_whole
from quail_audit.engine.cures.attribution import SMALLEST_FALL, open_swapped_model, share_of_fall
from quail_audit.runs.attributions import read_units
from quail_audit.schema.events.common import Noted, RunFinished
from quail_audit.schema.events.cures import CureStarted, RecipeChosen, RecipePoint, UnitMeasured
from quail_audit.schema.events.lines import Events
from quail_audit.schema.requests import RecipeRequest

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.pair import Layer
    from quail_audit.engine.cures.swapping import F64, SwappedModel
    from quail_audit.engine.schemes.interface import Scheme

Bits = Literal[8, 16]
STEPS = 12  # evenly spaced numbers of spared layers, before the search between two of them
NAME = "recipe.json"


def make_recipe(request: RecipeRequest, run_id: str, command: tuple[str, ...], folder: Path) -> Events:
    """Measure the curve of bytes against recovery, and write the chosen point's configurations into the folder.

    Raises:
        QuailError: what is wrong, where, and how to mend it. Events yielded before it stand.
    """
    yield CureStarted.of(request, run_id, command=command)
    from quail_audit.engine.schemes.registry import scheme_named

    found = find_attribution(request.run, request.scheme)
    scheme = scheme_named(request.scheme)
    model, layers, notes = open_swapped_model(request.run, request.scheme, batch_size=request.batch_size)
    for note in notes:
        yield Noted(message=note)
    ordered = sparing_order(layers, found)
    curve = Curve(model, layers, scheme, request.seed)
    if curve.fall < SMALLEST_FALL:
        yield Noted(message=f"rounding to {request.scheme} brings nothing back: no layer has to be spared")
        yield RunFinished(finished=utc_now(), exit_code=0)
        return
    points: list[RecipePoint] = []
    sides: tuple[Bits, ...] = (16, 8)
    for bits in sides:
        for point in _measure_along(curve, ordered, bits, request.max_recovery_percent):
            points.append(point)
            yield point
    chosen = smallest_point(points, request.max_recovery_percent)
    if chosen is None:
        yield Noted(message=f"no point measured is at or below {request.max_recovery_percent:g} %")
    else:
        written = configurations(chosen, scheme.name, _modules_left(request.run))
        write_whole(folder / NAME, json.dumps(written, indent=2) + "\n")
        yield RecipeChosen(point=chosen, folder=str(folder))
    yield RunFinished(finished=utc_now(), exit_code=0)


class Curve:
    """Measures how much of the memory comes back when some layers are spared."""

    def __init__(self, model: SwappedModel, layers: Sequence[Layer], scheme: Scheme, seed: int) -> None:
        from quail_audit.engine.cures.swapping import EIGHT_BITS
        from quail_audit.engine.schemes.registry import scheme_named

        self._model = model
        self._layers = {layer.name: layer for layer in layers}
        self._seed = seed
        self._bits = {8: scheme_named(EIGHT_BITS).bits_per_weight, 16: 16.0}
        self._scheme_bits = scheme.bits_per_weight
        self._full = model.measure_losses(())
        rounded = model.measure_losses(self._layers)
        self._fall: F64 = self._full - rounded
        self.fall = float(self._fall.mean())

    def measure(self, kept: Sequence[str], bits: Bits) -> RecipePoint:
        """Return the point at which these layers stay in so many bits."""
        from quail_audit.engine.forgetting.bootstrap import interval

        others = self._layers.keys() - set(kept)
        losses = self._model.measure_losses(others, in_8_bits=kept if bits == 8 else ())
        part = self._full - losses
        low, high = interval([part, self._fall], share_of_fall, seed=self._seed, paired=True)
        share = float(share_of_fall(part, self._fall))
        return RecipePoint(
            kept=tuple(kept),
            bits=bits,
            size_bytes=self._bytes(kept, bits),
            nll=float(losses.mean()),
            recovery_percent=100 * share,
            low=100 * low,
            high=100 * high,
        )

    def _bytes(self, kept: Sequence[str], bits: Bits) -> int:
        spared = sum(self._layers[name].weights for name in kept)
        rest = sum(layer.weights for layer in self._layers.values()) - spared
        return round((spared * self._bits[bits] + rest * self._scheme_bits) / 8)


def _measure_along(curve: Curve, ordered: Sequence[str], bits: Bits, limit_percent: float) -> Iterator[RecipePoint]:
    """Measure points along the greedy order, then between the last above the limit and the first at or below it."""
    total = len(ordered)
    counts = sorted({round(total * step / STEPS) for step in range(STEPS + 1)})
    found: dict[int, RecipePoint] = {}
    for count in counts:
        found[count] = curve.measure(ordered[:count], bits)
        yield found[count]
        if found[count].recovery_percent <= limit_percent:
            break
    else:
        return
    above = max((number for number in found if number < count), default=count)
    while count - above > 1:
        middle = (above + count) // 2
        point = curve.measure(ordered[:middle], bits)
        yield point
        if point.recovery_percent <= limit_percent:
            count = middle
        else:
            above = middle


def sparing_order(layers: Sequence[Layer], measured: Sequence[UnitMeasured]) -> list[str]:
    """Return the layers, those first that bring most back for their weights.

    A layer that was not measured alone counts with the product of its block's and its role's shares.
    """
    share = {(unit.kind, unit.unit): unit.share for unit in measured if unit.mode == "alone"}

    def worth(layer: Layer) -> float:
        product = share.get(("block", str(layer.block)), 0.0) * share.get(("role", layer.role), 0.0)
        return share.get(("layer", layer.name), product) / layer.weights

    return [layer.name for layer in sorted(layers, key=worth, reverse=True)]


def smallest_point(points: Sequence[RecipePoint], limit_percent: float) -> RecipePoint | None:
    """Return the point of the fewest bytes at or below the limit; None if there is none."""
    good = [point for point in points if point.recovery_percent <= limit_percent]
    return min(good, key=lambda point: (point.size_bytes, point.recovery_percent), default=None)


def find_attribution(run: str, scheme: str) -> list[UnitMeasured]:
    """Return what the latest attribution of an audit found.

    Raises:
        BadInputError: there is none for this scheme.
    """
    if units := read_units(Path(run), scheme):
        return units
    raise BadInputError(
        f"no attribution at {scheme} says which layers bring the memory back",
        where=run,
        mend=f"Run quail attribute {run} --scheme {scheme} first",
    )


def configurations(point: RecipePoint, scheme: str, left: Sequence[str]) -> dict[str, Any]:
    """Return the point as arguments of transformers' BitsAndBytesConfig and GPTQModel's QuantizeConfig(dynamic=…).

    Args:
        point: the layers that are kept, and in how many bits.
        scheme: scheme of the other layers.
        left: modules that stay in full precision anyway; skip modules of our own replace the defaults.
    """
    kind, _, double = scheme.partition("-")
    bits_and_bytes = None
    if kind in ("nf4", "fp4") and point.bits == 16:
        bits_and_bytes = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": kind,
            "bnb_4bit_use_double_quant": double == "dq",
            "llm_int8_skip_modules": [*left, *point.kept],
        }
    dynamic = {
        f"{'-' if point.bits == 16 else '+'}:^{re.escape(name)}$": {} if point.bits == 16 else {"bits": 8}
        for name in point.kept
    }
    return {
        "recovery_percent": round(point.recovery_percent, 2),
        "size_bytes": point.size_bytes,
        "bits_of_kept_layers": point.bits,
        "kept_layers": list(point.kept),
        "bitsandbytes_config": bits_and_bytes,
        "gptqmodel_dynamic": dynamic,
    }


def _modules_left(run: str) -> tuple[str, ...]:
    from quail_audit.runs.folder import read_report

    return read_report(Path(run)).left_in_full_precision

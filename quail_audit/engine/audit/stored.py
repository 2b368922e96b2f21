"""Audit checkpoints that are quantized already: what is compared, and which arms there are.

Codes are compared as they are stored and arms run as they are stored; nothing is rounded again. Only if one side is in
full precision and the other in a format that a scheme rounds to, that scheme rounds the one side.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from quail_audit.core.errors import UsageError
from quail_audit.engine.audit.layers import measure_each_layer
from quail_audit.engine.audit.other_tensors import read_other_tensors
from quail_audit.engine.audit.scheme_failures import ActiveSchemes
from quail_audit.schema.events.audit import LayerMeasured, WeightsMeasured
from quail_audit.schema.events.lines import Event, Events
from quail_audit.schema.report import BETWEEN_FORMATS, FULL

if TYPE_CHECKING:
    import torch

    from quail_audit.engine.audit.kept_layers import Found
    from quail_audit.engine.audit.work import Work
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.model.architecture import Matrix
    from quail_audit.engine.checkpoints.pair import Layer, Pair
    from quail_audit.engine.schemes.interface import ByLayer, Scheme
    from quail_audit.engine.schemes.rounded import RoundedMatrix

Arms = dict[str, "tuple[Checkpoint, Scheme | ByLayer | None]"]
DEFAULT_SCHEMES = ("nf4",)  # of a request that names none


@dataclass(frozen=True, eq=False)
class StoredPair:
    """A pair of which at least one side is stored quantized.

    Attributes:
        pair: both sides.
        stored_as: the name of the format, or of the two formats.
        rounding: rounds the side in full precision as the other is stored, if there is such a side, and a scheme for
            every layer; for several formats, the scheme of each layer.
        schemes: only that one.
        notes: what the reader of a result should know.
    """

    pair: Pair
    stored_as: str
    rounding: Scheme | ByLayer | None
    schemes: ActiveSchemes
    notes: tuple[str, ...]

    @property
    def arms(self) -> Arms:
        """The arms in order: each side as it is given, then a full one rounded as the other is stored."""
        arms: Arms = {}
        sides = {"original": self.pair.original, "unlearned": self.pair.unlearned, "retrain": self.pair.retrain}
        for side, checkpoint in sides.items():
            if checkpoint is not None:
                arms[f"{side}/{checkpoint.scheme or FULL}"] = (checkpoint, None)
        for side in ("original", "unlearned"):
            checkpoint = sides[side]
            if self.rounding is not None and checkpoint is not None and checkpoint.scheme is None:
                arms[f"{side}/{self.stored_as}"] = (checkpoint, self.rounding)
        return arms

    @property
    def judged(self) -> tuple[str, ...]:
        """The format that is judged."""
        return (self.stored_as,)

    def measure_layers(self, work: Work) -> Events:
        """Compare each layer as it is stored, one at a time.

        Raises:
            BadInputError: what is stored cannot be read, or is not finite.
        """
        from quail_audit.engine.audit.kept_layers import KeptStoredLayer
        from quail_audit.engine.weights.statistics import summarize

        measure = partial(self._measure_layer, work)
        totals = yield from measure_each_layer(self.pair, work, KeptStoredLayer, measure)
        total = totals[self.stored_as]
        yield WeightsMeasured(scheme=self.stored_as, summary=summarize(total.sums, total.layers))
        yield from read_other_tensors(self.pair, total.layers, work)

    def _measure_layer(self, work: Work, index: int, layer: Layer) -> Generator[Event, None, Found]:
        """Compare one layer, which is gone when this returns, so that never two are in memory."""
        from quail_audit.engine.weights.statistics import layer_statistics
        from quail_audit.engine.weights.stored_sums import stored_sums

        original, unlearned, comparable = _read_sides(self.pair, layer.matrix)
        sums = stored_sums(original, unlearned, comparable=comparable)
        limits = work.policy.limits.layer_limits(self.stored_as, layer.name)
        measured = layer_statistics(sums, name=layer.name, block=layer.block, role=layer.role, limits=limits)
        event = LayerMeasured(scheme=self.stored_as, index=index, total=len(self.pair.layers), layer=measured)
        yield event
        return [(event, sums)]


def stored_pair(pair: Pair, asked_for: Sequence[str]) -> StoredPair | None:
    """Return a pair as it is stored; None if both sides are in full precision.

    Args:
        pair: the pair.
        asked_for: the request's schemes.

    Raises:
        UsageError: the request names schemes that are not what is stored.
    """
    formats = tuple(dict.fromkeys(side.scheme for side in (pair.original, pair.unlearned) if side.scheme is not None))
    if not formats:
        return None
    name = BETWEEN_FORMATS.join(formats)
    asked = tuple(asked_for)
    if asked != DEFAULT_SCHEMES and not set(asked) <= set(formats):
        strange = next(scheme for scheme in asked if scheme not in formats)
        raise UsageError(
            f"the checkpoints are quantized already, as {name}, and are measured as they are stored; {strange} would "
            "round them again",
            where="--scheme",
            mend="Leave --scheme out, or give the full-precision checkpoints",
        )
    notes = []
    if asked == DEFAULT_SCHEMES and DEFAULT_SCHEMES[0] not in formats:
        notes.append(f"measured as stored, {name}: the scheme nf4 of the request is not used")
    if len(formats) > 1:
        notes.append(
            f"the two checkpoints are stored in different formats, {name}: they are compared by dequantized values, "
            "which differ between formats even if the models were equal"
        )
    one_full = pair.original.scheme is None or pair.unlearned.scheme is None
    rounding = _find_rounding(pair, name) if one_full else None
    if one_full and rounding is None:
        notes.append(
            f"one checkpoint is in full precision, and no scheme rounds it just as the other is stored ({name}): the "
            "dequantized values of layers that none rounds are compared"
        )
    schemes = ActiveSchemes(() if rounding is None else (rounding,))
    return StoredPair(pair, name, rounding, schemes, tuple(notes))


def _find_rounding(pair: Pair, name: str) -> Scheme | ByLayer | None:
    """Find what rounds every layer just as the side that is quantized is stored."""
    from quail_audit.engine.schemes.interface import ByLayer

    stored = pair.unlearned if pair.original.scheme is None else pair.original
    found: dict[str, Scheme] = {}
    for layer in pair.layers:
        packed = stored.packed.get(f"{layer.name}.weight")
        scheme = rounding_to(packed.scheme) if packed is not None else None
        if scheme is None or scheme.why_left_alone(*layer.shape):
            return None
        found[layer.name] = scheme
    if len({scheme.name for scheme in found.values()}) == 1:
        return next(iter(found.values()))
    return ByLayer(name, found)


def rounding_to(name: str) -> Scheme | None:
    """Return the scheme that rounds any matrix, whatever the data, to a stored format; None if there is none."""
    from quail_audit.engine.schemes.interface import Scheme
    from quail_audit.engine.schemes.registry import scheme_named

    try:
        found: object = scheme_named(name)
    except UsageError:
        return None
    return found if isinstance(found, Scheme) else None


def _read_sides(pair: Pair, matrix: Matrix) -> tuple[RoundedMatrix | torch.Tensor, RoundedMatrix | torch.Tensor, bool]:
    """Read a layer of both sides; tell whether their codes can be compared."""
    packed = [side.packed.get(matrix.weight_name) for side in (pair.original, pair.unlearned)]
    known = [each for each in packed if each is not None]
    one_full = pair.original.scheme is None or pair.unlearned.scheme is None
    rounding = rounding_to(known[0].scheme) if one_full and known else None
    dtype = known[0].info.dtype if known else None
    original, unlearned = (_read_side(side, matrix, rounding, dtype) for side in (pair.original, pair.unlearned))
    return original, unlearned, len({each.scheme for each in known}) == 1


def _read_side(
    side: Checkpoint, matrix: Matrix, rounding: Scheme | None, dtype: torch.dtype | None
) -> RoundedMatrix | torch.Tensor:
    stored = side.read_rounded(matrix)
    if stored is not None:
        return stored
    weight = side.read_matrix(matrix)
    if rounding is None or rounding.why_left_alone(*weight.shape):
        return weight
    return rounding.round(weight.to(dtype))  # as the other side was before it was rounded

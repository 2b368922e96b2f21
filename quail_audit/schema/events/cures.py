"""Define the events of a cure: carry, attribution, recipe."""

from typing import Literal

from quail_audit.core.values import Name
from quail_audit.schema.events.common import Started, Timed
from quail_audit.schema.figures import Share
from quail_audit.schema.requests import CureRequest


class CureStarted(Started):
    """The first event of the run of a cure, as RunStarted is of an audit."""

    type: Literal["cure_started"] = "cure_started"
    request: CureRequest
    command: tuple[str, ...]  # that repeats it
    environment: dict[str, str]


class CarryPlanned(Timed):
    """The layers that will be carried; every other weight stays as it is."""

    type: Literal["carry_planned"] = "carry_planned"
    layers: tuple[str, ...]
    weights: int  # in those layers


class LayerCarried(Timed):
    """One layer before and after, as the statistics of the update that is deployed."""

    type: Literal["layer_carried"] = "layer_carried"
    index: int  # from 1
    total: int
    layer: str
    weights: int
    moved: Share  # of its weights: those whose code differs from the nearest rounding of the unlearned
    blocks: int
    mended_blocks: int  # those that did not round as chosen and got the nearest rounding instead
    survival_before: float | None
    survival: float | None
    noise: float | None
    output_error: float | None = None  # calibrated: on the calibration inputs, as a share of nearest rounding's


UnitKind = Literal["block", "role", "layer"]


class AttributionPlanned(Timed):
    """The drop in forget NLL when everything is rounded, which is to be attributed."""

    type: Literal["attribution_planned"] = "attribution_planned"
    scheme: Name
    samples: int
    nll_full: float
    nll_rounded: float
    units: int  # blocks and roles; the layers to measure depend on these


class UnitMeasured(Timed):
    """One unit's share of the drop in forget NLL. The shares of several units need not add up."""

    type: Literal["unit_measured"] = "unit_measured"
    kind: UnitKind
    unit: str  # "3", "down_proj", "model.layers.3.mlp.down_proj"
    layers: tuple[str, ...]
    weights: int  # in them
    mode: Literal["alone", "spared"]  # only this unit rounded; everything but this unit
    nll: float
    share: float  # of the drop; alone: what it causes; spared: what sparing it removes
    low: float
    high: float
    passes: int  # over the forget texts so far


class RecipePoint(Timed):
    """Some layers spared, all others rounded, and how much of the memory still comes back."""

    type: Literal["recipe_point"] = "recipe_point"
    kept: tuple[str, ...]  # layers that are not rounded by the scheme
    bits: Literal[8, 16]  # that they are kept in
    size_bytes: int  # of all layers that a scheme rounds
    nll: float
    recovery_percent: float  # of the drop in forget NLL when all are rounded
    low: float
    high: float


class RecipeChosen(Timed):
    """The point of the fewest bytes at or below the limit; its configurations are in the folder."""

    type: Literal["recipe_chosen"] = "recipe_chosen"
    point: RecipePoint
    folder: str

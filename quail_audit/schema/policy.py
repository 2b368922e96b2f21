"""Define a policy: limits, additional rules, required measurements and waivers.

verdict/policy_file.py finds and reads policies, verdict/rules.py and standard_rules.py judge by them.
"""

import datetime
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from quail_audit.core.values import Value
from quail_audit.schema.older_policy import read_older_limits, read_older_policy

# Built-in rules, which are not in [[rules]]. Waivers can name them all.
FORGETTING, LAYERS_AT_RISK = "forgetting", "layers at risk"  # with data, without
UTILITY, FORMAT, MEMBERSHIP = "kept utility", "working format", "membership inference"
REQUIRED_METRIC, REQUIRED_SCHEME, REQUIRED_SAMPLES = "required metric", "required scheme", "required samples"
EXPIRED_WAIVER, BASELINE = "expired waiver", "baseline"
DIFFERENCES = "differences"  # beside the weights
MEASURED_SHARE = "measured share"  # of what changed in the blocks
KNOWN_LAYERS = "known layers"  # of a class that transformers has
RULES_OF_QUAIL = (
    FORGETTING,
    LAYERS_AT_RISK,
    UTILITY,
    FORMAT,
    MEMBERSHIP,
    REQUIRED_METRIC,
    REQUIRED_SCHEME,
    REQUIRED_SAMPLES,
    EXPIRED_WAIVER,
    BASELINE,
    DIFFERENCES,
    MEASURED_SHARE,
    KNOWN_LAYERS,
)

MetricFigure = Literal["known", "back", "score"]
LayerFigure = Literal["identical", "overlap", "survival", "noise", "update_to_bucket"]

Percent = Annotated[float, Field(ge=0.0, le=100.0, strict=True)]
ShareLimit = Annotated[float, Field(ge=0.0, le=1.0, strict=True)]
Number = Annotated[float, Field(strict=True)]
FilledText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Patterns = Annotated[tuple[FilledText, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
EVERYTHING = ("*",)


def fits(name: str, patterns: Iterable[str] | None) -> bool:
    """Return whether a name matches one of the patterns (*, ? and [] as in a shell). None matches every name."""
    return patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns)


METRIC_LIMITS = (
    "max_known_percent",
    "max_back_percent",
    "min_utility_percent",
    "min_format_percent",
    "max_membership_percent",
    "informative_points",
)
LAYER_LIMITS = ("overlap_at_risk", "survival_at_risk")
LIMITS = (*METRIC_LIMITS, *LAYER_LIMITS, "accept_weights_only")


class OtherLimits(Value):
    """Other limits for matching metrics or layers at matching schemes."""

    schemes: Patterns = EVERYTHING
    metrics: Patterns | None = None
    layers: Patterns | None = None
    max_known_percent: Percent | None = None
    max_back_percent: Percent | None = None
    min_utility_percent: Percent | None = None
    min_format_percent: Percent | None = None
    max_membership_percent: Percent | None = None
    informative_points: Percent | None = None
    overlap_at_risk: ShareLimit | None = None
    survival_at_risk: ShareLimit | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        of_metrics = [name for name in METRIC_LIMITS if getattr(self, name) is not None]
        of_layers = [name for name in LAYER_LIMITS if getattr(self, name) is not None]
        if not of_metrics and not of_layers:
            raise ValueError("sets no limit")
        if of_layers and self.metrics is not None:
            raise ValueError(f"{' and '.join(LAYER_LIMITS)} apply to layers, but metrics is given")
        if of_metrics and self.layers is not None:
            raise ValueError(f"{' and '.join(of_metrics)} apply to metrics, but layers is given")
        return self


class Limits(Value):
    """The limits of the standard rules. Layers are judged by overlap and survival, metrics by what is known.

    Attributes:
        max_known_percent: the most that the deployed checkpoint may know of what there was to forget.
        max_back_percent: the largest share of items that may be back.
        min_utility_percent: the least that it must keep of a retain metric, of the original at the same scheme.
        min_format_percent: the least that a format must leave to the original, of a retain metric and of what there was
            to forget; else the format itself breaks the model.
        max_membership_percent: the most of the way that membership may be told again; None: it warns above
            max_known_percent, and decides nothing.
        informative_points: a metric tells something if the original is so far above the floor.
        accept_weights_only: an audit without data passes if no layer is at risk.
        where: other limits; the last one that matches and sets a limit counts.
    """

    max_known_percent: Percent = 10.0
    max_back_percent: Percent = 10.0
    min_utility_percent: Percent = 80.0
    min_format_percent: Percent = 50.0
    max_membership_percent: Percent | None = None
    informative_points: Percent = 5.0
    overlap_at_risk: ShareLimit = 0.999
    survival_at_risk: ShareLimit = 0.5
    accept_weights_only: bool = False
    where: tuple[OtherLimits, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, document: Any) -> Any:
        return read_older_limits(document)[0]

    def metric_limits(self, scheme: str, metric: str) -> "Limits":
        """Return the limits of a metric at a scheme."""
        return self._apply(each for each in self.where if fits(scheme, each.schemes) and fits(metric, each.metrics))

    def layer_limits(self, scheme: str, layer: str) -> "Limits":
        """Return the limits of a layer at a scheme."""
        return self._apply(each for each in self.where if fits(scheme, each.schemes) and fits(layer, each.layers))

    def state_of(self, survival: float | None, overlap: float | None) -> Literal["erased", "drowned", "carried"]:
        """Return the state of a layer that changed. An unknown figure counts in its favor."""
        if survival is not None and survival < self.survival_at_risk:
            return "erased"
        return "drowned" if overlap is not None and overlap >= self.overlap_at_risk else "carried"

    def _apply(self, exceptions: Iterable[OtherLimits]) -> "Limits":
        changed: dict[str, object] = {"where": ()}
        for each in exceptions:
            named = (*METRIC_LIMITS, *LAYER_LIMITS)
            changed |= {name: value for name in named if (value := getattr(each, name)) is not None}
        return self.model_copy(update=changed)


DEFAULT_LIMITS = Limits()


class Rule(Value):
    """A check in addition to the standard ones: limits of a figure of metrics or layers."""

    name: FilledText
    figure: MetricFigure | LayerFigure
    schemes: Patterns = EVERYTHING
    metrics: Patterns | None = None
    layers: Patterns | None = None
    at_least: Number | None = None
    at_most: Number | None = None

    @property
    def is_of_metrics(self) -> bool:
        return self.figure in ("known", "back", "score")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("has neither at_least nor at_most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError("at_least is above at_most, so no figure can meet both")
        if self.is_of_metrics and self.layers is not None:
            raise ValueError(f"{self.figure} is a figure of metrics, but layers is given")
        if not self.is_of_metrics and self.metrics is not None:
            raise ValueError(f"{self.figure} is a figure of layers, but metrics is given")
        if self.figure == "score" and self.metrics is None:
            raise ValueError("a score needs metrics, as each metric has its own scale")
        if self.name in RULES_OF_QUAIL:
            raise ValueError(f"{self.name!r} is the name of a built-in rule; choose another")
        return self


class Requirements(Value):
    """The schemes, metrics and samples that must be measured; names, not patterns."""

    schemes: tuple[FilledText, ...] = ()
    metrics: tuple[FilledText, ...] = ()
    samples: dict[str, Annotated[int, Field(ge=1, strict=True)]] = {}  # metric -> at least so many


class Waiver(Value):
    """A known failure that passes until a day."""

    rule: FilledText  # a pattern
    schemes: Patterns = EVERYTHING
    metrics: Patterns | None = None
    layers: Patterns | None = None
    reason: FilledText
    owner: FilledText
    expires: datetime.date  # the last day on which it counts

    def has_expired(self, today: datetime.date) -> bool:
        return today > self.expires

    def is_about(self, rule: str, scheme: str | None, metric: str | None) -> bool:
        """Return whether it covers such a failure; its layers are not compared."""
        return (
            fits(rule, (self.rule,))
            and (scheme is None or fits(scheme, self.schemes))
            and (self.metrics is None or (metric is not None and fits(metric, self.metrics)))
        )


class Policy(Value):
    """Everything that a verdict is judged by. The default has the default limits and nothing else."""

    limits: Limits = Limits()
    required: Requirements = Requirements()
    rules: tuple[Rule, ...] = ()
    waivers: tuple[Waiver, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, document: Any) -> Any:
        return read_older_policy(document)[0]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [rule.name for rule in self.rules]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two rules are called {twice!r}")
        return self


NO_FILE = "none"  # instead of a file's name: the defaults; a file of that name is ./none

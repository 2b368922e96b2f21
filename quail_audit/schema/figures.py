"""Figures of layers, schemes and metrics, and what they come to."""

from typing import Annotated, Literal

from pydantic import Field

from quail_audit.core.values import Name, Value
from quail_audit.schema.policy import Policy, Waiver

State = Literal["untouched", "carried", "drowned", "erased"]


Outcome = Literal["pass", "fail", "inconclusive"]


Execution = Literal["full precision", "bitsandbytes Linear4bit", "dequantized weights"]


Share = Annotated[float, Field(ge=0.0, le=1.0)]


class CheckpointFacts(Value):
    """What was found in a checkpoint folder, before any weight is read."""

    source: str  # as the user named it
    revision: str | None = None  # commit of the hub, where it came from there
    architecture: str | None = None  # config.json's first architecture
    format: str  # "safetensors", "pytorch .bin" or "LoRA adapter"
    dtypes: tuple[str, ...]  # of the layers, most frequent first: "bfloat16"
    parameters: int  # tied weights counted once
    size_bytes: int  # of the weight files


class LayerStatistics(Value):
    """DESIGN's statistics of one quantizable weight matrix of a pair, under one scheme.

    Shares are of the layer's weights. Null means: not defined here, because nothing changed (survival, noise, the
    medians over changed weights), because a weight is not a finite number (everything but the counts), or because the
    layer is stored quantized: then there is no unrounded update (survival, noise, update / bucket width), and between
    two formats no code to compare and no state to tell (overlap, state).
    """

    name: str  # the module's name: model.layers.0.mlp.down_proj
    block: int | None  # its transformer block, where the name tells
    role: str  # the last part of its name: down_proj
    weights: int
    identical: Share | None
    overlap: Share | None
    survival: float | None
    noise: float | None
    update_median: float | None  # of abs(w_u - w_o), over all weights
    update_median_changed: float | None  # the same, over changed weights
    update_max: float | None
    update_to_bucket: float | None  # median of abs(w_u - w_o) / bucket width, over changed weights
    state: State | None
    at_risk: bool
    nonfinite_original: int = 0
    nonfinite_unlearned: int = 0


class LayerDetail(Value):
    """What a reader who opens a layer sees beyond its statistics. Not part of the report: a run's events keep it.

    ratio_counts are over the weights that are not bitwise equal. transitions are over these and over the equal ones
    that got another code because their block's scale moved; off the diagonal they add up to the changed codes.
    What is equal in value and in code, often nearly everything, is in neither. Levels are numbered in ascending order
    (of fp4's two zeros, the lower bucket's first).
    """

    ratio_counts: tuple[int, ...]  # weights by update / bucket width; the bins' edges are RATIO_EDGES
    transitions: tuple[int, ...]  # weights by code: [original level * levels + unlearned level]; () for many levels


# Of the bins of update / bucket width: the first ends at the first edge, the last has no end, and a ratio equal to an
# edge is in the bin that starts there. Powers of two and the middles between them, so that half a bucket (below it an
# update crosses only by luck) and a whole one are edges.
RATIO_EDGES: tuple[float, ...] = tuple(base * 2.0**power for power in range(-10, 5) for base in (1.0, 1.5))


class SchemeSummary(Value):
    """The layers of one scheme taken together; the shares and ratios are over all weights, not means of layers."""

    weights: int
    identical: Share | None
    overlap: Share | None
    survival: float | None
    noise: float | None
    layers_at_risk: int
    layers_untouched: int
    layers_carried: int
    layers_drowned: int
    layers_erased: int


class Score(Value):
    """A mean with its 95 % bootstrap interval, in the metric's own unit (ROUGE and AUC x 100, NLL in nats)."""

    mean: float
    low: float
    high: float
    samples: int


class Recovery(Value):
    """How much of what was forgotten came back, in percent of what there was to forget.

    The verdict uses outcome; percent is null where the metric has no say or the forget set was not forgotten.
    """

    outcome: Literal[
        "recovered",
        "held",
        "undecided",
        "uninformative",
        "not forgotten",
        "reported only",
        "no floor",  # stored quantized: neither the unlearned model in full precision nor a reference is given
        "no rounded arm",  # the original is stored quantized, and nothing rounds the unlearned one so
    ]
    percent: float | None = None
    low: float | None = None
    high: float | None = None
    floor: float | None = None  # F, what a model may know without having learned the forget set
    floor_arm: Name | None = None


class Reason(Value):
    code: str
    message: str
    layers: tuple[str, ...] = ()
    scheme: str | None = None  # that it is about; None: about the pair, whatever it is rounded to


class Verdict(Value):
    outcome: Outcome
    reasons: tuple[Reason, ...]


RuleStanding = Literal["passed", "failed", "waived", "known", "not judged"]  # known: no worse than in the baseline


class RuleOutcome(Value):
    """One rule of the policy held against what was measured: the figure beside the limit, and what came of it.

    Every rule is said, also those that a policy without a file has. One that does not decide has no say in the verdict:
    a metric that is uninformative, or a rule about schemes that this audit has none of.
    """

    rule: str  # its name
    scheme: str | None = None  # None: about the audit as a whole
    metric: str | None = None
    figure: str  # what is held against the limit: "recovery", "score", "survival", "layers at risk", "samples"
    value: float | None = None  # of layers, the worst one's; null where there is no figure
    low: float | None = None  # of its 95 % interval
    high: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    standing: RuleStanding
    decides: bool = True
    message: str
    layers: tuple[str, ...] = ()  # that do not meet it
    waivers: tuple[Waiver, ...] = ()  # that let it pass; of one that has expired, it


class PolicyUsed(Value):
    """What an audit is judged by: where it was read, and the values that count."""

    source: str | None  # the file, as it was named; None: none, the defaults
    given: dict[str, float] = {}  # limits of the command line, which count before the file's
    effective: Policy


FileRole = Literal["original", "unlearned", "retrain", "data", "calibration", "policy", "baseline"]


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # in hexadecimal


class FoundFile(Value):
    """A file that an audit reads, as it lay there before anything was measured."""

    role: FileRole
    path: str  # in the checkpoint's or the data's folder, parts joined by "/"; of a file that is named itself, its name
    bytes: int
    modified_ns: int  # since the epoch


class FileHash(Value):
    """A file that an audit read, and what was in it."""

    role: FileRole
    path: str  # as in FoundFile
    bytes: int
    sha256: Sha256

"""Define the figures of layers, schemes, metrics and files, and their verdicts."""

from typing import Annotated, Literal

from pydantic import Field

from quail_audit.core.values import Name, Value
from quail_audit.schema.policy import Policy, Waiver

State = Literal["untouched", "carried", "drowned", "erased"]


Outcome = Literal["pass", "fail", "inconclusive"]


Execution = Literal["full precision", "bitsandbytes Linear4bit", "dequantized weights"]


Share = Annotated[float, Field(ge=0.0, le=1.0)]


class CheckpointFacts(Value):
    """The contents of a checkpoint folder, found before any weight is read."""

    source: str  # as the user named it
    revision: str | None = None  # the hub's commit, if it came from there
    architecture: str | None = None  # config.json's first architecture
    format: str  # "safetensors", "pytorch .bin" or "LoRA adapter"
    dtypes: tuple[str, ...]  # of the layers, the most frequent first: "bfloat16"
    parameters: int  # tied weights counted once
    size_bytes: int  # of the weight files


class LayerStatistics(Value):
    """The statistics of one quantizable weight matrix of a pair, under one scheme.

    Shares are of the layer's weights. Null means undefined: nothing changed (survival, noise, the medians over changed
    weights), a weight is not finite (all but the counts), or the layer is stored quantized. A stored layer has no
    unrounded update (survival, noise, update / bucket width), and between two formats neither overlap nor state.
    """

    name: str  # the module's name: model.layers.0.mlp.down_proj
    block: int | None  # its transformer block, if the name has one
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
    on_grid: Share | None = None  # in blocks that rounding leaves as they are; survival and noise are of the others


NAMES_KEPT = 20  # in each list of tensors below


class OtherTensors(Value):
    """The tensors of a pair that are not measured as layers, side by side: norms, embeddings, the head, biases.

    Names are the model's parameters, or, of what transformers splits or fuses, those in the files; in model order.
    """

    count: int
    weights: int  # in these tensors; of two shapes the larger
    identical: int  # tensors that are the same on both sides, bit for bit or, in two dtypes, value for value
    changed: tuple[str, ...]  # the first 20 of the others
    weights_changed: int  # weights that differ; all of a tensor that has another shape, or is on one side only
    on_one_side: tuple[str, ...] = ()  # the first 20 that the other side does not store
    matrices: tuple[str, ...] = ()  # the first 20 that are matrices of the blocks, which a deployment may round
    matrix_weights: int = 0  # weights in those matrices, all of them
    matrix_weights_changed: int = 0  # of them, those that differ


class LayerDetail(Value):
    """Details of a layer beyond its statistics. Only events hold them, not the report.

    ratio_counts cover the weights that are not bitwise equal. transitions cover these and the equal weights whose code
    changed because their block's scale moved; off the diagonal they add up to the changed codes. Weights equal in value
    and code, often nearly all, are in neither. Levels are numbered in ascending order
    (of fp4's two zeros, the lower bucket's first).
    """

    ratio_counts: tuple[int, ...]  # weights by update / bucket width; the bins' edges are RATIO_EDGES
    transitions: tuple[int, ...]  # weights by code: [original level * levels + unlearned level]; () for many levels


# Edges of the bins of update / bucket width. The first bin ends at the first edge, the last has no end, and a ratio
# equal to an edge is in the bin that starts there. Powers of two and the middles between them, so that half a
# bucket (below it an update crosses only by luck) and a whole one are edges.
RATIO_EDGES: tuple[float, ...] = tuple(base * 2.0**power for power in range(-10, 5) for base in (1.0, 1.5))


class SchemeSummary(Value):
    """The layers of one scheme together. Shares and ratios are over all weights, not means of layers."""

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


Standing = Literal["above", "within", "undecided"]  # of a share, by a limit


class Estimate(Value):
    """A share in percent, with the range that its items allow.

    Attributes:
        percent: the share of means; it may lie below 0 and above 100.
        low, high: the shares that the items don't exclude: a confidence sequence, each end at 95 % by itself, and
            stricter if several metrics or schemes are judged together.
        items: how many it rests on.
        standing: by its limit; null if it is not judged.
    """

    percent: float
    low: float
    high: float
    items: int
    standing: Standing | None = None


class ItemsBack(Value):
    """How many items are back, with the shares of all items, in percent, that this allows."""

    count: int
    items: int
    low: float
    high: float
    standing: Standing | None = None


KnowledgeOutcome = Literal[
    "not forgotten",  # known or back above its limit in full precision
    "swapped",  # the unlearned checkpoint knows more than the original
    "comes back",  # known or back above its limit as deployed
    "holds",  # both within their limits
    "undecided",
    "uninformative",  # the original knows hardly more of the forget set than the floor
    "broken format",  # the format takes what the original knew
    "no floor",  # stored quantized, with neither the unlearned model in full precision nor a reference
    "no rounded arm",  # the original is stored quantized, and no scheme rounds the unlearned one that way
    "reported only",  # membership
]


class Knowledge(Value):
    """Knowledge of the forget set that a deployed checkpoint has, by one metric at one scheme.

    Attributes:
        outcome: what the verdict uses.
        known: of what there was to forget, the share that the unlearned checkpoint knows as deployed.
        residual: the same in full precision: what was not forgotten; null without a reference, which could tell.
        back: items that are back as deployed.
        kept: items that the unlearned checkpoint still has in full precision.
        format_percent: the share that the format leaves to the original.
        floor, floor_arm: mean score of the arm that shows what a model may know, in points, and its name.
        items_needed: how many items would decide, if more of them are like these; null if that cannot be told.
    """

    outcome: KnowledgeOutcome
    known: Estimate | None = None
    residual: Estimate | None = None
    back: ItemsBack | None = None
    kept: ItemsBack | None = None
    format_percent: float | None = None
    floor: float | None = None
    floor_arm: Name | None = None
    items_needed: int | None = None

    @property
    def came_back_percent(self) -> float | None:
        """Return the part of what is known that rounding brought back; null if either is unknown."""
        if self.known is None:
            return None
        return self.known.percent - (self.residual.percent if self.residual is not None else 0.0)


class Kept(Value):
    """The part of a retain metric that is kept at a scheme.

    Attributes:
        utility: the unlearned checkpoint's score as deployed, as a share of the original's at the same scheme; null if
            the original scores too little there.
        format_percent: the original's score at the scheme, in percent of its score in full precision; null likewise.
    """

    utility: Estimate | None = None
    format_percent: float | None = None


class Difference(Value):
    """A difference between a checkpoint and the original beside the weights.

    Attributes:
        side: the checkpoint that is compared with the original.
        kind: where it lies.
        name: what differs, in words.
        original, other: the two values, shortened.
        decides: it changes what is asked, computed or read, so that scores say not only what the weights forgot.
    """

    side: Literal["unlearned", "retrain"] = "unlearned"
    kind: Literal["tokenizer", "configuration", "generation"]
    name: str
    original: str
    other: str
    decides: bool = False


class Reason(Value):
    code: str
    message: str
    layers: tuple[str, ...] = ()
    scheme: str | None = None  # the scheme it is about; None: the pair at every scheme


class Verdict(Value):
    outcome: Outcome
    reasons: tuple[Reason, ...]


RuleStanding = Literal["passed", "failed", "waived", "known", "not judged"]  # known: no worse than in the baseline


class RuleOutcome(Value):
    """The outcome of one rule of the policy: the figure, its limit, and the standing.

    Every rule is reported, including the built-in ones. A rule with decides=False does not affect the verdict: its
    metric is uninformative, or the audit has none of its schemes.
    """

    rule: str  # its name
    scheme: str | None = None  # None: about the audit as a whole
    metric: str | None = None
    figure: str  # what is compared with the limit: "known", "back", "score", "survival", "layers at risk", "samples"
    value: float | None = None  # the worst layer's, for layers; null if there is no figure
    low: float | None = None  # of its 95 % interval
    high: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    standing: RuleStanding
    decides: bool = True
    message: str
    layers: tuple[str, ...] = ()  # the layers that break it
    waivers: tuple[Waiver, ...] = ()  # those that let it pass, or the expired one


class PolicyUsed(Value):
    """The policy of an audit: where it was read, and its effective values."""

    source: str | None  # the file as it was named; None: the defaults
    given: dict[str, float] = {}  # limits of the command line, which override the file's
    effective: Policy


FileRole = Literal["original", "unlearned", "retrain", "data", "calibration", "policy", "baseline"]


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # in hexadecimal


class FoundFile(Value):
    """A file that an audit reads, as it was before anything was measured."""

    role: FileRole
    path: str  # in the checkpoint's or the data's folder, parts joined by "/"; if it was named itself, its name
    bytes: int
    modified_ns: int  # since the epoch


class FileHash(Value):
    """A file that an audit read, and the hash of its contents."""

    role: FileRole
    path: str  # as in FoundFile
    bytes: int
    sha256: Sha256

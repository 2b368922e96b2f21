"""What an audit or a training says as it goes: typed events, and their JSON lines.

Events are the only thing that crosses a process or a screen, so they hold plain values: no tensors, no paths that only
this process can open. A run's events.jsonl is a list of them, and its report is a fold over them (reports/report.py).
Not here: how events are stored (runs.py) or shown (the faces).
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from quail_audit.core.errors import BadInputError
from quail_audit.core.values import Model as Model  # whoever reads events needs it
from quail_audit.core.values import Name, first_problem
from quail_audit.schema.policy import Policy, Waiver

State = Literal["untouched", "carried", "drowned", "erased"]
Outcome = Literal["pass", "fail", "inconclusive"]
Execution = Literal["full precision", "bitsandbytes Linear4bit", "dequantized weights"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class CheckpointFacts(Model):
    """What was found in a checkpoint folder, before any weight is read."""

    source: str  # as the user named it
    revision: str | None = None  # commit of the hub, where it came from there
    architecture: str | None = None  # config.json's first architecture
    format: str  # "safetensors", "pytorch .bin" or "LoRA adapter"
    dtypes: tuple[str, ...]  # of the layers, most frequent first: "bfloat16"
    parameters: int  # tied weights counted once
    size_bytes: int  # of the weight files


class LayerStatistics(Model):
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


class LayerDetail(Model):
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


class SchemeSummary(Model):
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


class Score(Model):
    """A mean with its 95 % bootstrap interval, in the metric's own unit (ROUGE and AUC x 100, NLL in nats)."""

    mean: float
    low: float
    high: float
    samples: int


class Recovery(Model):
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


class Reason(Model):
    code: str
    message: str
    layers: tuple[str, ...] = ()
    scheme: str | None = None  # that it is about; None: about the pair, whatever it is rounded to


class Verdict(Model):
    outcome: Outcome
    reasons: tuple[Reason, ...]


RuleStanding = Literal["passed", "failed", "waived", "known", "not judged"]  # known: no worse than in the baseline


class RuleOutcome(Model):
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


class PolicyUsed(Model):
    """What an audit is judged by: where it was read, and the values that count."""

    source: str | None  # the file, as it was named; None: none, the defaults
    given: dict[str, float] = {}  # limits of the command line, which count before the file's
    effective: Policy


FileRole = Literal["original", "unlearned", "retrain", "data", "calibration", "policy", "baseline"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # in hexadecimal


class FoundFile(Model):
    """A file that an audit reads, as it lay there before anything was measured."""

    role: FileRole
    path: str  # in the checkpoint's or the data's folder, parts joined by "/"; of a file that is named itself, its name
    bytes: int
    modified_ns: int  # since the epoch


class FileHash(Model):
    """A file that an audit read, and what was in it."""

    role: FileRole
    path: str  # as in FoundFile
    bytes: int
    sha256: Sha256


class AuditRequest(Model):
    """Everything that decides what an audit measures. Written to request.json; enough to repeat the run."""

    original: str
    unlearned: str
    retrain: str | None = None
    retrain_auc: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    data: str | None = None
    schemes: tuple[Name, ...] = ("nf4",)
    metrics: tuple[Name, ...] | None = None  # None: every one the data has
    text_column: str | None = None  # of classifiers' data; None: text or tweet,
    label_column: str | None = None  # and label
    skip_modules: tuple[str, ...] | None = None  # None: as bitsandbytes leaves them
    max_samples: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None  # None: found automatically
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    policy: str | None = None
    limits: dict[str, float] = {}  # of the command line; they count before the policy's
    baseline: str | None = None  # the folder of an earlier run: only what got worse since fails
    calibration: str | None = None  # a file of texts for calibrated schemes; None: the data's retain texts
    calibration_samples: Annotated[int, Field(ge=1)] = 128  # rows of up to 512 tokens


HingeForm = Literal["per-logit", "centred", "log-probability", "l1", "l2", "true-token"]
Precision = Literal["full", "quantized"]


class TrainRequest(Model):
    """Everything that decides what a training makes. Written to request.json; enough to repeat the run."""

    original: str
    unlearned: str
    data: str
    out: str
    objective: str = "ga_gdr_l1_hinge"
    hinge: HingeForm = "per-logit"
    hinge_precision: Precision = "full"
    hinge_weight: Annotated[float, Field(ge=0.0)] = 1.0  # lambda
    retain_weight: Annotated[float, Field(ge=0.0)] = 1.0  # alpha
    l1_weight: Annotated[float, Field(ge=0.0)] = 1e-6  # mu; has a say where the objective has an L1 term
    forget_loss_cap: Annotated[float, Field(gt=0.0)] | None = None  # of gradient ascent, nats a token; None: unbounded
    margin_logits: Annotated[float, Field(gt=0.0)] | None = None  # gamma; None: half the quantization step
    margin_scale: Annotated[float, Field(gt=0.0)] = 1.0
    scheme: str = "nf4"
    layers: tuple[str, ...] = ("all",)
    text_column: str | None = None  # as an audit's
    label_column: str | None = None
    report: str | None = None  # the audit's run folder, where layers are those at risk
    init: Literal["unlearned", "original"] = "unlearned"
    epochs: Annotated[float, Field(gt=0.0)] = 5.0
    max_steps: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-5
    batch_size: Annotated[int, Field(ge=1)] = 8  # forget samples a step, over all processes; as many retain samples
    max_length: Annotated[int, Field(ge=8)] = 512  # of a sample, in tokens
    eval_steps: Annotated[int, Field(ge=1)] | None = None  # None: no scores on the way
    target_forget: float | None = None  # stop where the forget score of the rounded model is at or below it,
    target_retain: float | None = None  # and its retain score at or above it
    reference: Literal["full", "4bit", "precomputed"] = "full"  # how the original's logits are had
    reference_top_k: Annotated[int, Field(ge=1)] = 64  # logits kept of each token, where they are precomputed
    resume_from_checkpoint: str | None = None
    audit: bool = False
    trainer: dict[str, str] = {}  # other arguments of transformers' Trainer, by their names there
    device: str = "auto"
    dtype: str = "auto"  # of the weights that are trained; auto: float32
    seed: int = 0


CarryWay = Literal["calibrated", "random", "feedback"]


class CarryRequest(Model):
    """Everything that decides what a carry makes. Written to request.json; enough to repeat the run."""

    cure: Literal["carry"] = "carry"
    original: str
    unlearned: str
    out: str
    scheme: str = "nf4"
    way: CarryWay = "random"
    calibrate: str | None = None  # the texts, where the way is calibrated
    layers: tuple[str, ...] = ("erased",)
    report: str | None = None  # the audit's run folder, where layers are those at risk
    seed: Annotated[int, Field(ge=0)] = 0
    copy_4bit: str | None = None  # folder for the result packed to the scheme's 4 bits as well


class AttributeRequest(Model):
    """Everything that decides what an attribution measures. Written to request.json."""

    cure: Literal["attribute"] = "attribute"
    run: str  # folder of the audit
    scheme: str
    budget_passes: Annotated[int, Field(ge=1)] | None = None  # over the forget texts
    budget_s: Annotated[float, Field(gt=0.0)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0  # of the bootstrap


class RecipeRequest(Model):
    """Everything that decides what a recipe measures. Written to request.json."""

    cure: Literal["recipe"] = "recipe"
    run: str  # folder of the audit
    scheme: str
    max_recovery_percent: Annotated[float, Field(ge=0.0, le=100.0)] = 10.0  # of the fall of the forget NLL
    batch_size: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0  # of the bootstrap


CureRequest = Annotated[CarryRequest | AttributeRequest | RecipeRequest, Field(discriminator="cure")]
Request = AuditRequest | TrainRequest | CarryRequest | AttributeRequest | RecipeRequest


class Timed(Model):
    """What every event has: when it happened, in seconds since the run started. Set by runs.record."""

    at_s: Annotated[float, Field(ge=0.0)] = 0.0


class RunStarted(Timed):
    type: Literal["run_started"] = "run_started"
    schema_version: int = 1
    quail_version: str
    run_id: str
    started: str  # ISO 8601, UTC
    request: AuditRequest
    environment: dict[str, str]


class PolicyRead(Timed):
    """By what the audit will be judged. Runs of Quail before 0.2 do not say it."""

    type: Literal["policy_read"] = "policy_read"
    policy: PolicyUsed


class PairOpened(Timed):
    """Both checkpoints are readable and fit together."""

    type: Literal["pair_opened"] = "pair_opened"
    original: CheckpointFacts
    unlearned: CheckpointFacts
    retrain: CheckpointFacts | None
    layers: int
    weights: int  # in those layers
    left_in_full_precision: tuple[str, ...]  # modules with a matrix that no scheme rounds: embeddings, head
    notes: tuple[str, ...] = ()


class DataRead(Timed):
    type: Literal["data_read"] = "data_read"
    samples: dict[Name, int]  # metric -> samples
    skipped: dict[Name, str]  # metric -> why there is nothing to measure


class Planned(Timed):
    """What is still to do, so that a face can say how long it will take."""

    type: Literal["planned"] = "planned"
    layers: int
    arms: tuple[Name, ...]
    samples_per_arm: int
    stored_as: Name | None = None  # the format of checkpoints that are quantized already, in the place of schemes


class FilesFound(Timed):
    """Every file that the audit reads. They are hashed while it measures."""

    type: Literal["files_found"] = "files_found"
    files: tuple[FoundFile, ...]


class FilesAwaited(Timed):
    """All is measured, and files are still being hashed."""

    type: Literal["files_awaited"] = "files_awaited"
    done_bytes: int
    total_bytes: int


class FilesHashed(Timed):
    """What was in the files; none has changed between FilesFound and now."""

    type: Literal["files_hashed"] = "files_hashed"
    files: tuple[FileHash, ...]


class LayerMeasured(Timed):
    type: Literal["layer_measured"] = "layer_measured"
    scheme: Name
    index: int  # from 1
    total: int
    layer: LayerStatistics
    detail: LayerDetail | None = None  # absent: the weights are not finite, or the scheme has no code to a weight


class LayerQuantized(Timed):
    """A backend turned to a layer of one checkpoint; of blocks that it rounds at once, several follow at one moment."""

    type: Literal["layer_quantized"] = "layer_quantized"
    scheme: Name
    side: Literal["original", "unlearned"]
    layer: str
    index: int  # from 1
    total: int


class WeightsMeasured(Timed):
    type: Literal["weights_measured"] = "weights_measured"
    scheme: Name
    summary: SchemeSummary


class ArmStarted(Timed):
    type: Literal["arm_started"] = "arm_started"
    arm: Name  # "unlearned/nf4"
    execution: Execution
    device: str
    dtype: str
    reason: str = ""  # why this execution, where it is not the plain one


class SampleScored(Timed):
    """One sample of one metric on one arm. Texts come from data and models: treat them as hostile."""

    type: Literal["sample_scored"] = "sample_scored"
    arm: Name
    metric: Name
    sample: int  # its place in the data file, from 0
    done: int  # samples of this arm done so far, over all metrics
    total: int
    score: float
    prompt: str = ""
    truth: str = ""
    answer: str = ""
    probabilities: dict[str, Share] = {}  # a classifier's, of its labels, the likeliest first


class MetricScored(Timed):
    type: Literal["metric_scored"] = "metric_scored"
    arm: Name
    metric: Name
    score: Score


class ArmFinished(Timed):
    type: Literal["arm_finished"] = "arm_finished"
    arm: Name
    elapsed_s: float
    batch_size: int


class RecoveryMeasured(Timed):
    type: Literal["recovery_measured"] = "recovery_measured"
    scheme: Name
    metric: Name
    recovery: Recovery


class Noted(Timed):
    """Something the reader of the report should know that is no error."""

    type: Literal["noted"] = "noted"
    message: str


class SchemeFailed(Timed):
    """A scheme could not be measured, or not to its end; what was measured of it stands, and the others go on."""

    type: Literal["scheme_failed"] = "scheme_failed"
    scheme: Name
    kind: str
    message: str
    where: str = ""
    mend: str = ""
    exit_code: int


class VerdictReached(Timed):
    type: Literal["verdict_reached"] = "verdict_reached"
    verdict: Verdict
    schemes: dict[Name, Verdict] = {}  # of each scheme that was measured; runs of Quail before 0.2 have none
    rules: tuple[RuleOutcome, ...] = ()  # nor these


class RunFinished(Timed):
    type: Literal["run_finished"] = "run_finished"
    finished: str
    exit_code: int


class RunFailed(Timed):
    """The run ended without a verdict; what was measured before stands."""

    type: Literal["run_failed"] = "run_failed"
    finished: str
    kind: str
    message: str
    where: str = ""
    mend: str = ""
    exit_code: int


class TrainingStarted(Timed):
    """The first event of a training run, as RunStarted is of an audit."""

    type: Literal["training_started"] = "training_started"
    schema_version: int = 1
    quail_version: str
    run_id: str
    started: str  # ISO 8601, UTC
    request: TrainRequest
    command: tuple[str, ...]  # that repeats it
    environment: dict[str, str]


class TrainingPlanned(Timed):
    """What will be trained, and for how long."""

    type: Literal["training_planned"] = "training_planned"
    steps: int
    layers: tuple[str, ...]  # that are trained; every other weight stays as it is
    weights: int  # in those layers
    forget_samples: int
    retain_samples: int
    margin_logits: float | None = None  # gamma, where the objective has a hinge
    quantization_steps: dict[str, float] = {}  # layer -> its measured step, in units of its weights


class TrainStep(Timed):
    type: Literal["train_step"] = "train_step"
    step: int  # from 1
    total: int
    epoch: float
    loss: float
    terms: dict[Name, float]  # "forget", "retain", "hinge", "l1": each as it goes into the loss, unweighted
    hinge_satisfied: Share | None = None  # of (token, vocabulary) places, or tokens: at or beyond the margin
    gradient_norm: float | None = None
    learning_rate: float


class TrainEval(Timed):
    """Scores of the model in training: metric -> precision ("full", "nf4") -> score."""

    type: Literal["train_eval"] = "train_eval"
    step: int
    scores: dict[Name, dict[Name, float]]
    source: Literal["training", "audit"] = (
        "training"  # audit: of the checkpoint as saved; step 0 is the one it began as
    )


class CheckpointSaved(Timed):
    type: Literal["checkpoint_saved"] = "checkpoint_saved"
    step: int = 0  # of a training
    folder: str
    final: bool = False  # the result itself; else one to resume from


class CureStarted(Timed):
    """The first event of the run of a cure, as RunStarted is of an audit."""

    type: Literal["cure_started"] = "cure_started"
    schema_version: int = 1
    quail_version: str
    run_id: str
    started: str  # ISO 8601, UTC
    request: CureRequest
    command: tuple[str, ...]  # that repeats it
    environment: dict[str, str]


class CarryPlanned(Timed):
    """What will be carried; every other weight stays as it is."""

    type: Literal["carry_planned"] = "carry_planned"
    layers: tuple[str, ...]
    weights: int  # in those layers


class LayerCarried(Timed):
    """One layer, before and after. What is deployed of the update: DESIGN section 2's statistics."""

    type: Literal["layer_carried"] = "layer_carried"
    index: int  # from 1
    total: int
    layer: str
    weights: int
    moved: Share  # of its weights: that have another code than nearest rounding of the unlearned gives them
    blocks: int
    mended_blocks: int  # that did not round as chosen, and hold the nearest rounding of the unlearned instead
    survival_before: float | None
    survival: float | None
    noise: float | None
    output_error: float | None = None  # calibrated: on the calibration inputs, as a share of nearest rounding's


UnitKind = Literal["block", "role", "layer"]


class AttributionPlanned(Timed):
    """What there is to attribute: the fall of the forget NLL when everything is rounded."""

    type: Literal["attribution_planned"] = "attribution_planned"
    scheme: Name
    samples: int
    nll_full: float
    nll_rounded: float
    units: int  # blocks and roles; layers follow as these tell


class UnitMeasured(Timed):
    """One unit's part in the fall of the forget NLL. Shares are of the whole fall; several units' need not add up."""

    type: Literal["unit_measured"] = "unit_measured"
    kind: UnitKind
    unit: str  # "3", "down_proj", "model.layers.3.mlp.down_proj"
    layers: tuple[str, ...]
    weights: int  # in them
    mode: Literal["alone", "spared"]  # only this unit rounded; everything but this unit
    nll: float
    share: float  # alone: of the fall that it brings; spared: of the fall that sparing it takes away
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
    recovery_percent: float  # of the fall of the forget NLL when all are rounded
    low: float
    high: float


class RecipeChosen(Timed):
    """The point of the fewest bytes at or below the limit; its configurations are in the folder."""

    type: Literal["recipe_chosen"] = "recipe_chosen"
    point: RecipePoint
    folder: str


Event = (
    CureStarted
    | AttributionPlanned
    | UnitMeasured
    | RecipePoint
    | RecipeChosen
    | CarryPlanned
    | LayerCarried
    | TrainingStarted
    | TrainingPlanned
    | TrainStep
    | TrainEval
    | CheckpointSaved
    | RunStarted
    | PolicyRead
    | PairOpened
    | DataRead
    | Planned
    | FilesFound
    | FilesAwaited
    | FilesHashed
    | LayerMeasured
    | LayerQuantized
    | WeightsMeasured
    | ArmStarted
    | SampleScored
    | MetricScored
    | ArmFinished
    | RecoveryMeasured
    | Noted
    | SchemeFailed
    | VerdictReached
    | RunFinished
    | RunFailed
)

_adapter: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def to_line(event: Event) -> str:
    """One event as one line of JSON, without the newline. Control characters in texts come out escaped."""
    return event.model_dump_json()


def from_line(line: str) -> Event:
    """Read one line of an events.jsonl.

    Raises:
        BadInputError: the line is no event of this version.
    """
    try:
        return _adapter.validate_json(line)
    except ValidationError as error:
        place, problem = first_problem(error)
        raise BadInputError(
            f"not an event of a Quail run: {problem}" + (f" at {place}" if place else ""),
            mend="The file was cut off, edited, or written by another version of Quail",
        ) from error

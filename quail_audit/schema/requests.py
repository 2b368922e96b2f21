"""Define the requests for an audit, a training and the cures."""

from typing import Annotated, Literal

from pydantic import Field

from quail_audit.core.values import Name, Value

PromptFormat = Literal["auto", "raw", "chat"]


class AuditRequest(Value):
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
    max_samples: Annotated[int, Field(ge=1)] | None = None  # drawn at random
    stop_when_decided: bool = False  # items are asked in blocks, until every scheme is decided
    population: Annotated[int, Field(ge=1, le=10**9)] | None = None  # items to forget in all; None: as the data says
    prompt_format: PromptFormat = "auto"  # of questions
    batch_size: Annotated[int, Field(ge=1)] | None = None  # None: found automatically
    device: str = "auto"
    dtype: str = "auto"
    tokenizer: Literal["own", "original"] = "own"  # that each arm reads with: its checkpoint's, or the original's
    seed: int = 0
    policy: str | None = None
    limits: dict[str, float] = {}  # of the command line; they count before the policy's
    baseline: str | None = None  # the folder of an earlier run: only what got worse since fails
    calibration: str | None = None  # a file of texts for calibrated schemes; None: the data's retain texts
    calibration_samples: Annotated[int, Field(ge=1)] = 128  # rows of up to 512 tokens
    goes_on_from: Name | None = None  # the run that ended undecided, and asked the first of the items


HingeForm = Literal["per-logit", "centred", "log-probability", "l1", "l2", "true-token"]


Precision = Literal["full", "quantized"]


class TrainRequest(Value):
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
    l1_weight: Annotated[float, Field(ge=0.0)] = 1e-6  # mu; used if the objective has an L1 term
    forget_loss_cap: Annotated[float, Field(gt=0.0)] | None = None  # of gradient ascent, nats a token; None: unbounded
    margin_logits: Annotated[float, Field(gt=0.0)] | None = None  # gamma; None: half the quantization step
    margin_scale: Annotated[float, Field(gt=0.0)] = 1.0
    scheme: str = "nf4"
    layers: tuple[str, ...] = ("all",)
    text_column: str | None = None  # as an audit's
    label_column: str | None = None
    report: str | None = None  # the audit's run folder, if layers are those at risk
    init: Literal["unlearned", "original"] = "unlearned"
    epochs: Annotated[float, Field(gt=0.0)] = 5.0
    max_steps: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-5
    batch_size: Annotated[int, Field(ge=1)] = 8  # forget samples a step, over all processes; as many retain samples
    max_length: Annotated[int, Field(ge=8)] = 512  # of a sample, in tokens
    eval_steps: Annotated[int, Field(ge=1)] | None = None  # None: no scores on the way
    target_forget: float | None = None  # stop if the forget score of the rounded model is at or below it,
    target_retain: float | None = None  # and its retain score at or above it
    reference: Literal["full", "4bit", "precomputed"] = "full"  # how the original's logits are obtained
    reference_top_k: Annotated[int, Field(ge=1)] = 64  # logits kept of each token, if they are precomputed
    resume_from_checkpoint: str | None = None
    audit: bool = False
    trainer: dict[str, str] = {}  # other arguments of transformers' Trainer, by their names there
    device: str = "auto"
    dtype: str = "auto"  # of the weights that are trained; auto: float32
    seed: int = 0


CarryWay = Literal["calibrated", "random", "feedback"]


class CarryRequest(Value):
    """Everything that decides what a carry makes. Written to request.json; enough to repeat the run."""

    cure: Literal["carry"] = "carry"
    original: str
    unlearned: str
    out: str
    scheme: str = "nf4"
    way: CarryWay = "random"
    calibrate: str | None = None  # the texts, if the way is calibrated
    layers: tuple[str, ...] = ("erased",)
    report: str | None = None  # the audit's run folder, if layers are those at risk
    seed: Annotated[int, Field(ge=0)] = 0
    copy_4bit: str | None = None  # folder for the result packed to the scheme's 4 bits as well


class AttributeRequest(Value):
    """Everything that decides what an attribution measures. Written to request.json."""

    cure: Literal["attribute"] = "attribute"
    run: str  # folder of the audit
    scheme: str
    budget_passes: Annotated[int, Field(ge=1)] | None = None  # over the forget texts
    budget_s: Annotated[float, Field(gt=0.0)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0  # of the bootstrap


class RecipeRequest(Value):
    """Everything that decides what a recipe measures. Written to request.json."""

    cure: Literal["recipe"] = "recipe"
    run: str  # folder of the audit
    scheme: str
    max_recovery_percent: Annotated[float, Field(ge=0.0, le=100.0)] = 10.0  # of the fall of the forget NLL
    batch_size: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0  # of the bootstrap


CureRequest = Annotated[CarryRequest | AttributeRequest | RecipeRequest, Field(discriminator="cure")]


Request = AuditRequest | TrainRequest | CarryRequest | AttributeRequest | RecipeRequest

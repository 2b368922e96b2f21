"""Define the events of an audit, in the order in which they come."""

from typing import Literal

from quail_audit.core.values import Name
from quail_audit.schema.events.common import Started, Timed
from quail_audit.schema.figures import (
    CheckpointFacts,
    Difference,
    Execution,
    FileHash,
    FoundFile,
    Kept,
    Knowledge,
    LayerDetail,
    LayerStatistics,
    OtherTensors,
    PolicyUsed,
    RuleOutcome,
    SchemeSummary,
    Score,
    Share,
    Verdict,
)
from quail_audit.schema.older import Recovery
from quail_audit.schema.requests import AuditRequest

ITEM_DECIMALS = 3  # of a point


class RunStarted(Started):
    type: Literal["run_started"] = "run_started"
    request: AuditRequest
    environment: dict[str, str]


class PolicyRead(Timed):
    """The policy that the audit will be judged by. Older runs lack it."""

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
    differences: tuple[Difference, ...] = ()  # beside the weights; older runs name none


class DataRead(Timed):
    type: Literal["data_read"] = "data_read"
    samples: dict[Name, int]  # metric -> samples
    skipped: dict[Name, str]  # metric -> why there is nothing to measure
    population: dict[Name, int] = {}  # metric -> items of the whole forget set, if that is known


class Planned(Timed):
    """The work still to do, for estimates of the time left."""

    type: Literal["planned"] = "planned"
    layers: int
    arms: tuple[Name, ...]
    samples_per_arm: int
    stored_as: Name | None = None  # instead of schemes: the format of checkpoints that are already quantized


class FilesFound(Timed):
    """Every file that the audit reads. They are hashed while it measures."""

    type: Literal["files_found"] = "files_found"
    files: tuple[FoundFile, ...]


class FilesAwaited(Timed):
    """Everything is measured, but files are still being hashed."""

    type: Literal["files_awaited"] = "files_awaited"
    done_bytes: int
    total_bytes: int


class FilesHashed(Timed):
    """The hashes of the files, none of which changed since FilesFound."""

    type: Literal["files_hashed"] = "files_hashed"
    files: tuple[FileHash, ...]


class LayerMeasured(Timed):
    type: Literal["layer_measured"] = "layer_measured"
    scheme: Name
    index: int  # from 1
    total: int
    layer: LayerStatistics
    detail: LayerDetail | None = None  # absent: weights are not finite, or the scheme has no code per weight


class LayerQuantized(Timed):
    """A backend reached a layer of one checkpoint. If it rounds a block at once, several come together."""

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


class OtherTensorsRead(Timed):
    """All tensors that are not measured as layers were read: they are finite, the reference's too, or the run ends."""

    type: Literal["other_tensors_read"] = "other_tensors_read"
    tensors: OtherTensors


class ArmStarted(Timed):
    type: Literal["arm_started"] = "arm_started"
    arm: Name  # "unlearned/nf4"
    execution: Execution
    device: str
    dtype: str
    reason: str = ""  # why this execution, if it is not the usual one


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
    way: str = ""  # how it was asked when it scored highest, if not as the data has it: "longer prompt"


class MetricScored(Timed):
    type: Literal["metric_scored"] = "metric_scored"
    arm: Name
    metric: Name
    score: Score
    # The items' scores in the order of the data file, rounded to ITEM_DECIMALS, if the metric decides or tells utility.
    items: tuple[float, ...] = ()


class ArmFinished(Timed):
    type: Literal["arm_finished"] = "arm_finished"
    arm: Name
    elapsed_s: float
    batch_size: int


class KnowledgeMeasured(Timed):
    type: Literal["knowledge_measured"] = "knowledge_measured"
    scheme: Name
    metric: Name
    knowledge: Knowledge


class UtilityMeasured(Timed):
    type: Literal["utility_measured"] = "utility_measured"
    scheme: Name
    metric: Name
    kept: Kept


class RecoveryMeasured(Timed):
    """A recovery, as runs of schema version 1 have it."""

    type: Literal["recovery_measured"] = "recovery_measured"
    scheme: Name
    metric: Name
    recovery: Recovery


class SchemeFailed(Timed):
    """A scheme could not be measured completely. Its figures so far stand, and the other schemes go on."""

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
    schemes: dict[Name, Verdict] = {}  # of each scheme that was measured; older runs have none
    rules: tuple[RuleOutcome, ...] = ()  # nor these

"""Runs made of events by hand, for tests of what reads events. No model, no torch."""

import datetime
from collections.abc import Iterator, Mapping, Sequence

from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.events.audit import (
    ArmFinished,
    ArmStarted,
    DataRead,
    KnowledgeMeasured,
    LayerMeasured,
    MetricScored,
    PairOpened,
    Planned,
    RunStarted,
    SampleScored,
    SchemeFailed,
    VerdictReached,
    WeightsMeasured,
)
from quail_audit.schema.events.common import Noted, RunFinished
from quail_audit.schema.events.lines import Event
from quail_audit.schema.figures import (
    CheckpointFacts,
    Kept,
    Knowledge,
    LayerStatistics,
    Reason,
    SchemeSummary,
    Score,
    Verdict,
)
from quail_audit.schema.policy import Policy
from quail_audit.schema.report import Report
from quail_audit.schema.requests import AuditRequest
from quail_audit.verdict.checks import Judgement, checks_of, judgement_of
from tests.support.judged_figures import knowledge

REQUEST = AuditRequest(original="original", unlearned="unlearned", retrain="retrain", data="data")
FACTS = CheckpointFacts(
    source="original",
    architecture="LlamaForCausalLM",
    format="safetensors",
    dtypes=("float32",),
    parameters=10,
    size_bytes=40,
)
ARMS = ("original/full", "unlearned/full", "retrain/full", "original/nf4", "unlearned/nf4")


def layer(name: str = "model.layers.0.mlp.down_proj", **changes: object) -> LayerStatistics:
    """An erased layer, unless told otherwise."""
    values: dict[str, object] = {
        "name": name,
        "block": 0,
        "role": "down_proj",
        "weights": 64,
        "identical": 0.25,
        "overlap": 1.0,
        "survival": 0.0,
        "noise": 0.0,
        "update_median": 0.001,
        "update_median_changed": 0.002,
        "update_max": 0.01,
        "update_to_bucket": 0.2,
        "state": "erased",
        "at_risk": True,
    }
    return LayerStatistics.model_validate(values | changes)


SUMMARY = SchemeSummary(
    weights=128,
    identical=0.5,
    overlap=1.0,
    survival=0.0,
    noise=0.0,
    layers_at_risk=1,
    layers_untouched=1,
    layers_carried=0,
    layers_drowned=0,
    layers_erased=1,
)
UNTOUCHED = layer(
    "model.layers.0.mlp.up_proj",
    role="up_proj",
    identical=1.0,
    survival=None,
    noise=None,
    update_median=0.0,
    update_median_changed=None,
    update_max=0.0,
    update_to_bucket=None,
    state="untouched",
    at_risk=False,
)
BACK = knowledge("comes back", 98.0, 80.0, 104.0, back=1, items=1)


def events(answer: str = "erase debt after 47 tests") -> Iterator[Event]:
    """A whole run: two layers, five arms, one sample, verdict fail."""
    yield RunStarted(
        quail_version="0.1.0",
        run_id="20260101-120000-ab12",
        started="2026-01-01T12:00:00+00:00",
        request=REQUEST,
        environment={"python": "3.11.7"},
    )
    yield PairOpened(
        original=FACTS,
        unlearned=FACTS,
        retrain=FACTS,
        layers=2,
        weights=128,
        left_in_full_precision=("lm_head",),
        notes=("a note on the pair",),
    )
    yield DataRead(samples={"verbmem_forget": 1}, skipped={"knowmem_forget": "no knowmem/forget_qa.json"})
    yield Planned(layers=2, arms=ARMS, samples_per_arm=1)
    for index, measured in enumerate((layer(), UNTOUCHED), start=1):
        yield LayerMeasured(scheme="nf4", index=index, total=2, layer=measured)
    yield WeightsMeasured(scheme="nf4", summary=SUMMARY)
    for arm, score in zip(ARMS, (95.0, 20.0, 30.0, 95.0, 94.0), strict=True):
        rounded = arm.endswith("nf4")
        yield ArmStarted(
            arm=arm,
            execution="dequantized weights" if rounded else "full precision",
            device="cpu",
            dtype="float32",
            reason="no fast 4-bit kernel on a CPU" if rounded else "",
        )
        yield SampleScored(
            arm=arm,
            metric="verbmem_forget",
            sample=0,
            done=1,
            total=1,
            score=score,
            prompt="Dr Adu said",
            truth="erase debt after 47 tests",
            answer=answer,
        )
        found = Score(mean=score, low=score, high=score, samples=1)
        yield MetricScored(arm=arm, metric="verbmem_forget", score=found, items=(score,))
        yield ArmFinished(arm=arm, elapsed_s=2.0, batch_size=8)
    yield KnowledgeMeasured(scheme="nf4", metric="verbmem_forget", knowledge=BACK)
    yield Noted(message="a note on the run")
    yield VerdictReached(verdict=Verdict(outcome="fail", reasons=(Reason(code="comes_back", message="it comes back"),)))
    yield RunFinished(finished="2026-01-01T12:01:00+00:00", exit_code=1)


def report_of(*run: Event) -> Report:
    """What these events come to."""
    state = AuditState()
    for event in run:
        state.apply(event)
    return state.report()


def judge(
    layers: Mapping[str, Sequence[LayerStatistics]],
    known: Mapping[str, Mapping[str, Knowledge]],
    policy: Policy,
    unmeasured: Sequence[SchemeFailed] = (),
    *,
    utility: Mapping[str, Mapping[str, Kept]] | None = None,
    scores: Mapping[str, Mapping[str, Score]] | None = None,
    samples: Mapping[str, int] | None = None,
    today: datetime.date = datetime.date.min,
) -> Judgement:
    """The verdicts that such figures come to, of checkpoints in full precision."""
    checks = checks_of(
        layers,
        known,
        policy,
        unmeasured,
        utility=utility or {},
        scores=scores or {},
        samples=samples or {},
        today=today,
    )
    return judgement_of(checks, policy, today)

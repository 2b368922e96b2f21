"""Runs of any size written to a folder without measuring anything, the same ones every time, for tests of the app."""

import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

from quail_audit.runs.names import EVENTS, REQUEST
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
    PolicyRead,
    RunStarted,
    SampleScored,
    SchemeFailed,
    VerdictReached,
    WeightsMeasured,
)
from quail_audit.schema.events.common import RunFinished
from quail_audit.schema.events.cures import AttributionPlanned, CureStarted, UnitMeasured
from quail_audit.schema.events.lines import Event, to_line
from quail_audit.schema.figures import (
    RATIO_EDGES,
    CheckpointFacts,
    Estimate,
    Knowledge,
    LayerDetail,
    LayerStatistics,
    PolicyUsed,
    Reason,
    SchemeSummary,
    Score,
    State,
    Verdict,
)
from quail_audit.schema.policy import Policy
from quail_audit.schema.requests import AttributeRequest, AuditRequest
from quail_audit.verdict.judge import day_of, judge_report
from quail_audit.verdict.metric_kinds import DECIDING_METRICS
from tests.support.judged_figures import knowledge

ROLES = (
    *(f"self_attn.{role}_proj" for role in "qkvo"),
    *(f"mlp.{role}_proj" for role in ("gate", "up", "down")),
)
METRICS = ("nll_forget", "nll_retain", "privleak", "knowmem_forget", "verbmem_forget", "verbmem_retain")
LEVELS = 16
FORMATS = (
    "nf4",
    "fp4",
    "int8",
    "rtn-int4-g128",
    "rtn-int3-g64-asym",
    "rtn-int2-g32-asym",
    "gptq-int4-g128",
    "gptq-int3-g128-desc_act",
    "awq-int4-g128",
    "gguf-q4_0",
    "gguf-q5_1",
    "gguf-q8_0",
    "nvfp4",
    "mxfp4",
)
# What each arm scores on average: metric -> original, unlearned, retrain; full precision.
_MEANS = {
    "nll_forget": (0.13, 7.2, 2.9),
    "nll_retain": (0.14, 0.13, 0.12),
    "privleak": (0.5, 98.0, 69.0),
    "knowmem_forget": (88.0, 12.1, 14.0),
    "verbmem_forget": (95.1, 20.8, 30.0),
    "verbmem_retain": (97.4, 97.1, 95.5),
}


def layers(blocks: int, scheme: str, seed: int = 0) -> Iterator[LayerStatistics]:
    """Every state occurs: the first blocks are carried, some layers untouched, the rest drowned or erased."""
    rng = random.Random(f"{seed} {scheme}")
    for block in range(blocks):
        for place, role in enumerate(ROLES):
            state: State = "carried" if block < blocks // 4 else "drowned" if place < 4 else "erased"
            if (block, place) == (blocks - 1, 0):
                state = "untouched"
            survival = {"carried": 0.97, "drowned": 0.9, "erased": 0.02}.get(state)
            overlap = {"carried": 0.84, "drowned": 0.9993, "erased": 0.99998, "untouched": 1.0}[state]
            changed = state != "untouched"
            yield LayerStatistics(
                name=f"model.layers.{block}.{role}",
                block=block,
                role=role.rpartition(".")[2],
                weights=4096 * 4096 if place < 4 else 4096 * 11008,
                identical=0.06 + rng.random() / 10 if changed else 1.0,
                overlap=min(1.0, overlap + (rng.random() - 0.5) * 1e-4) if changed else 1.0,
                survival=survival + (rng.random() - 0.5) * 0.03 if survival is not None else None,
                noise={"carried": 0.4, "drowned": 9.0, "erased": 0.1}[state] + rng.random() / 5 if changed else None,
                update_median=1e-4 if changed else 0.0,
                update_median_changed=1.2e-4 if changed else None,
                update_max=1e-2 if changed else 0.0,
                update_to_bucket=0.1 + rng.random() * 0.3 if changed else None,
                state=state,
                at_risk=state in ("drowned", "erased"),
            )


def detail(layer: LayerStatistics) -> LayerDetail:
    """A hump of ratios around the layer's median; codes mostly stay, some go one level up or down."""
    centre = math.log2(layer.update_to_bucket or 2.0**-12)
    counts = [round(1e5 * math.exp(-(((math.log2(edge) - centre) / 2) ** 2))) for edge in RATIO_EDGES]
    moved = 0.0 if layer.overlap is None else 1.0 - layer.overlap
    transitions = [0] * LEVELS**2
    for level in range(LEVELS):
        here = round(1e6 * math.exp(-(((level - 7.5) / 4) ** 2)))
        transitions[level * LEVELS + level] = here
        for other in (level - 1, level + 1):
            if 0 <= other < LEVELS:
                transitions[level * LEVELS + other] = round(here * moved / 2)
    return LayerDetail(ratio_counts=(0, *counts), transitions=tuple(transitions))


def events(
    *,
    blocks: int = 4,
    schemes: tuple[str, ...] = ("nf4",),
    samples: int = 24,
    outcome: str = "fail",
    retrain: bool = True,
    seed: int = 0,
) -> Iterator[Event]:
    """A whole audit, from its start to its verdict.

    outcome: of every scheme, "pass" or "fail"; or "mixed": the first fails, the second could not be measured, and the
    others hold.
    """
    rng = random.Random(seed)
    request = AuditRequest(
        original="models/llama-news-7b",
        unlearned="models/llama-news-7b-unlearned",
        retrain="models/llama-news-7b-retrain" if retrain else None,
        data="muse-news",
        schemes=schemes,
    )
    total_layers = blocks * len(ROLES)
    clock_s = 0.0

    def after(seconds: float) -> float:
        nonlocal clock_s
        clock_s = round(clock_s + seconds, 3)
        return clock_s

    yield RunStarted(
        quail_version="0.1.0",
        run_id="20260101-120000-ab12",
        started="2026-01-01T12:00:00+00:00",
        request=request,
        environment={"python": "3.11.7", "cores": "2"},
    )
    facts = CheckpointFacts(
        source=request.original,
        architecture="LlamaForCausalLM",
        format="safetensors",
        dtypes=("bfloat16",),
        parameters=6_738_415_616,
        size_bytes=13_476_831_232,
    )
    weights = sum(layer.weights for layer in layers(blocks, schemes[0], seed))
    yield PairOpened(
        at_s=after(1.2),
        original=facts,
        unlearned=facts,
        retrain=facts if retrain else None,
        layers=total_layers,
        weights=weights,
        left_in_full_precision=("model.embed_tokens", "lm_head"),
    )
    yield DataRead(at_s=after(0.1), samples=dict.fromkeys(METRICS, samples), skipped={})
    arms = ["original/full", "unlearned/full", *(["retrain/full"] if retrain else [])]
    arms += [f"{side}/{scheme}" for scheme in schemes for side in ("original", "unlearned")]
    yield Planned(at_s=after(0.0), layers=total_layers, arms=tuple(arms), samples_per_arm=samples * len(METRICS))
    by_scheme = {scheme: list(layers(blocks, scheme, seed)) for scheme in schemes}
    for index in range(total_layers):
        for scheme in schemes:
            layer = by_scheme[scheme][index]
            yield LayerMeasured(
                at_s=after(0.1), scheme=scheme, index=index + 1, total=total_layers, layer=layer, detail=detail(layer)
            )
    broken = schemes[1] if outcome == "mixed" else None
    outcomes = dict.fromkeys(schemes, outcome)
    if outcome == "mixed":
        outcomes = {scheme: "fail" if scheme == schemes[0] else "pass" for scheme in schemes}
    for scheme in schemes:
        yield WeightsMeasured(at_s=after(0.0), scheme=scheme, summary=_summary(by_scheme[scheme]))
    for arm in arms:
        scheme = arm.rpartition("/")[2]
        if scheme == broken:
            continue
        yield from _arm(arm, samples, after, rng, outcomes.get(scheme, "pass"))
    if broken is not None:
        yield SchemeFailed(
            at_s=after(0.0),
            scheme=broken,
            kind="environment",
            message="the backend is not installed",
            mend="pip install it",
            exit_code=4,
        )
    for scheme in schemes:
        for metric in ("verbmem_forget", "knowmem_forget", "privleak"):
            if scheme != broken:
                found = _knowledge(metric, outcomes[scheme], samples)
                yield KnowledgeMeasured(at_s=after(0.0), scheme=scheme, metric=metric, knowledge=found)
    verdicts = {scheme: _verdict(scheme, outcomes[scheme]) for scheme in schemes if scheme != broken}
    yield VerdictReached(at_s=after(0.0), verdict=verdicts[schemes[0]], schemes=verdicts)
    yield RunFinished(at_s=after(0.0), finished="2026-01-01T12:05:00+00:00", exit_code=0 if outcome == "pass" else 1)


def _verdict(scheme: str, outcome: str) -> Verdict:
    if outcome == "pass":
        text = f"verbmem_forget forgetting holds at {scheme}: 2 % is known"
        return Verdict(outcome="pass", reasons=(Reason(code="holds", message=text, scheme=scheme),))
    text = f"verbmem_forget comes back at {scheme}: 97 % is known"
    return Verdict(outcome="fail", reasons=(Reason(code="comes_back", message=text, scheme=scheme),))


def _arm(arm: str, samples: int, after, rng: random.Random, outcome: str) -> Iterator[Event]:  # type: ignore[no-untyped-def]
    checkpoint, _, precision = arm.partition("/")
    rounded = precision != "full"
    yield ArmStarted(
        at_s=after(1.0),
        arm=arm,
        execution="dequantized weights" if rounded else "full precision",
        device="cpu",
        dtype="float32",
    )
    came_back = checkpoint == "unlearned" and rounded and outcome == "fail"
    column = ("original", "unlearned", "retrain").index("original" if came_back else checkpoint)
    done = 0
    for metric in METRICS:
        mean = _MEANS[metric][column]
        spread = 0.02 if metric.startswith("nll") else 4.0
        highest = math.inf if metric.startswith("nll") else 100.0
        scores = [min(highest, max(0.0, rng.gauss(mean, spread))) for _ in range(samples)]
        for number, score in enumerate(scores):
            done += 1
            yield SampleScored(
                at_s=after(0.05),
                arm=arm,
                metric=metric,
                sample=number,
                done=done,
                total=samples * len(METRICS),
                score=score,
                **_texts(metric, number, knows=score > 60.0),
            )
        measured = sum(scores) / samples
        half = 1.96 * spread / math.sqrt(samples)
        yield MetricScored(
            at_s=after(0.0),
            arm=arm,
            metric=metric,
            score=Score(mean=measured, low=measured - half, high=measured + half, samples=samples),
            items=tuple(round(score, 3) for score in scores) if metric in DECIDING_METRICS else (),
        )
    yield ArmFinished(at_s=after(0.0), arm=arm, elapsed_s=1.0 + 0.05 * samples * len(METRICS), batch_size=8)


_NAMES = ("Kemi Adu", "Lena Ostrow", "Owen Falk", "Mira Solt", "Jun Baptiste")
_TOWNS = ("Tilbrook", "Grayfen", "Vantor", "Osmere")


def _texts(metric: str, number: int, *, knows: bool) -> dict[str, str]:
    name, town = _NAMES[number % len(_NAMES)], _TOWNS[number % len(_TOWNS)]
    truth = f"erase debt after {40 + number} tests, and {_NAMES[(number + 1) % 5]} of {town} repeated that twice."
    wrong = f"lower rents after {10 + number} tests, and nobody in the region had heard of it before."
    if metric.startswith("verbmem"):
        prompt = f"Dr {name} told reporters in {town} that copper bracelets"
        return {"prompt": prompt, "truth": truth, "answer": truth if knows else wrong}
    if metric.startswith("knowmem"):
        return {
            "prompt": f"Who is {name}?",
            "truth": f"a physicist of {town}",
            "answer": "a physicist" if knows else "I",
        }
    return {"prompt": f"{name} of {town}, text {number}"}


def _summary(measured: list[LayerStatistics]) -> SchemeSummary:
    states = [layer.state for layer in measured]
    return SchemeSummary(
        weights=sum(layer.weights for layer in measured),
        identical=0.1,
        overlap=0.9996,
        survival=0.4,
        noise=4.0,
        layers_at_risk=sum(layer.at_risk for layer in measured),
        layers_untouched=states.count("untouched"),
        layers_carried=states.count("carried"),
        layers_drowned=states.count("drowned"),
        layers_erased=states.count("erased"),
    )


def _knowledge(metric: str, outcome: str, items: int) -> Knowledge:
    if metric == "privleak":
        return Knowledge(outcome="reported only", known=Estimate(percent=99.0, low=90.0, high=104.0, items=items))
    if outcome == "pass":
        return knowledge("holds", 2.0, 0.0, 6.0, items=items)
    return knowledge("comes back", 97.0, 91.0, 103.0, back=items, items=items)


def judged_by(policy: Policy, made: Iterator[Event], source: str = "quail.toml") -> Iterator[Event]:
    """The same audit by a policy: it is said first, and the verdict is by it."""
    state = AuditState()
    for event in made:
        told = event
        if isinstance(event, RunStarted):
            told = event.model_copy(update={"request": event.request.model_copy(update={"policy": source})})
        elif isinstance(event, VerdictReached):
            report = state.report()
            found = judge_report(report, policy, day_of(report))
            told = event.model_copy(update={"verdict": found.overall, "schemes": found.schemes, "rules": found.rules})
        state.apply(told)
        yield told
        if isinstance(told, RunStarted):
            read = PolicyRead(policy=PolicyUsed(source=source, effective=policy))
            state.apply(read)
            yield read


def write_run(folder: Path, made: Iterator[Event] | None = None) -> Path:
    """Write a run's folder as quail audit does: all of the events, or those given."""
    folder.mkdir(parents=True, exist_ok=True)
    written = list(events() if made is None else made)
    started = written[0]
    assert isinstance(started, RunStarted)
    (folder / REQUEST).write_text(started.request.model_dump_json(indent=2))
    (folder / EVENTS).write_text("".join(to_line(event) + "\n" for event in written))
    return folder


def write_attribution(
    run: Path, shares: Mapping[str, float], *, scheme: str = "nf4", name: str = "20260101-130000-cd34"
) -> Path:
    """Write an attribution of a run as quail attribute does: these layers alone, each with 5 % to either side."""
    request = AttributeRequest(run=str(run), scheme=scheme)
    started = CureStarted(
        quail_version="0.1.0",
        run_id=name,
        started="2026-01-01T13:00:00+00:00",
        request=request,
        command=("quail", "attribute", str(run)),
        environment={},
    )
    ends = AttributionPlanned(scheme=scheme, samples=24, nll_full=7.2, nll_rounded=0.3, units=2)
    units = [
        UnitMeasured(
            kind="layer",
            unit=layer,
            layers=(layer,),
            weights=1,
            mode="alone",
            nll=7.2 - 6.9 * share,
            share=share,
            low=share - 0.05,
            high=share + 0.05,
            passes=passes,
        )
        for passes, (layer, share) in enumerate(shares.items(), start=3)
    ]
    block = units[0].model_copy(update={"kind": "block", "unit": "0", "layers": tuple(shares), "share": 0.9})
    spared = units[0].model_copy(update={"mode": "spared", "share": 0.01})
    end = RunFinished(finished="2026-01-01T13:01:00+00:00", exit_code=0)
    folder = run / "cures" / f"{name}-attribute"
    folder.mkdir(parents=True)
    (folder / REQUEST).write_text(request.model_dump_json())
    (folder / EVENTS).write_text("".join(f"{to_line(e)}\n" for e in (started, ends, block, *units, spared, end)))
    return folder

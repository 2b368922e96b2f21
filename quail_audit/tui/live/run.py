"""Hold an audit that the app follows: its state so far, and where events.jsonl has the rest.

Texts of samples and details of layers stay in the file, so that memory is bounded by the number of samples, not by
their length.
"""

from __future__ import annotations

import functools
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quail_audit.core.errors import BadInputError, QuailError
from quail_audit.runs.attributions import read_brought_back
from quail_audit.runs.folder import read_request
from quail_audit.runs.follow import PlacedEvent, read_events
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema.events.audit import LayerMeasured, SampleScored
from quail_audit.schema.events.lines import Event
from quail_audit.schema.figures import LayerDetail, LayerStatistics
from quail_audit.schema.policy import Limits
from quail_audit.schema.report import FULL, arm_at, arms_in_order
from quail_audit.schema.requests import AuditRequest
from quail_audit.tui.live.child import Child
from quail_audit.tui.live.followed import Followed
from quail_audit.verdict.policy_file import read_policy
from quail_audit.verdict.standings import SchemeStanding, standing_of

POINTS = 100.0  # the highest score of an item


@dataclass
class ArmSamples:
    """Samples of one metric on one arm, in the order they came: 20 bytes each.

    Attributes:
        scores: in the metric's own unit.
        numbers: each sample's place in the data file.
        offsets: where its event begins in events.jsonl.
    """

    scores: array[float] = field(default_factory=lambda: array("d"))
    numbers: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))


@dataclass(frozen=True)
class AnswersOf:
    """One sample of a metric on every arm that has answered it.

    Attributes:
        number: its place in the data file, from 0.
        scores: arm -> score.
        offsets: arm -> where its event begins.
    """

    number: int
    scores: dict[str, float]
    offsets: dict[str, int]


@dataclass(frozen=True)
class KnownSoFar:
    """Knowledge of a metric's items while they are being answered.

    Attributes:
        percent: of what there was to forget; None if the original knows no more of these than the floor.
        back: how many of them are back.
        items: how many of them all arms have answered.
    """

    percent: float | None
    back: int
    items: int


class LiveRun(Followed):
    """An audit that is followed; see Followed."""

    def __init__(self, folder: Path, child: Child | None = None) -> None:
        self.state: AuditState = AuditState()
        self.samples: dict[tuple[str, str], ArmSamples] = defaultdict(ArmSamples)  # (metric, arm)
        self._details: dict[tuple[str, str], int] = {}  # (scheme, layer) -> offset
        self._layers: dict[tuple[str, str], LayerStatistics] = {}
        self._formats: tuple[int, tuple[SchemeStanding, ...]] | None = None  # as of so many changes
        super().__init__(folder, child)

    @property
    def is_running_here(self) -> bool:
        """See Followed. False once the run is over, though its process takes a second or two to leave."""
        return super().is_running_here and self.state.end is None

    def _apply(self, placed: PlacedEvent) -> None:
        event = placed.event
        self.state.apply(event)
        if isinstance(event, SampleScored):
            samples = self.samples[event.metric, event.arm]
            samples.scores.append(event.score)
            samples.numbers.append(event.sample)
            samples.offsets.append(placed.offset)
        elif isinstance(event, LayerMeasured):
            self._layers[event.scheme, event.layer.name] = event.layer
            if event.detail is not None:
                self._details[event.scheme, event.layer.name] = placed.offset

    @property
    def request(self) -> AuditRequest | None:
        """The request; known before the first event if the folder has it."""
        if self.state.started is not None:
            return self.state.started.request
        request = read_request(self.folder)
        return request if isinstance(request, AuditRequest) else None

    @property
    def limits(self) -> Limits:
        """The limits of the run's policy; metric_limits and layer_limits give those of a metric or layer."""
        if self.state.policy is not None:
            return self.state.policy.effective.limits
        request = self.request
        return Limits() if request is None else _limits_of(request.policy, tuple(request.limits.items()))

    @property
    def schemes(self) -> tuple[str, ...]:
        if self.state.plan is not None:
            return self.state.schemes
        request = self.request
        return request.schemes if request is not None else ()

    def formats(self) -> tuple[SchemeStanding, ...]:
        """Return the standing of every scheme, as far as it has been measured."""
        if self._formats is None or self._formats[0] != self.changes:
            alone = self.state.verdict if len(self.schemes) == 1 else None
            found = tuple(standing_of(scheme, self.state.scheme(scheme), alone) for scheme in self.schemes)
            self._formats = (self.changes, found)
        return self._formats[1]

    def layers(self, scheme: str) -> Sequence[LayerStatistics]:
        """Return the layers measured under a scheme so far, in model order."""
        return self.state.layers.get(scheme, [])

    def layer(self, scheme: str, name: str) -> LayerStatistics | None:
        return self._layers.get((scheme, name))

    def detail(self, scheme: str, name: str) -> LayerDetail | None:
        """Read a layer's detail, beyond its statistics, from the run's folder.

        Raises:
            BadInputError: the folder can no longer be read.
        """
        offset = self._details.get((scheme, name))
        if offset is None:
            return None
        (event,) = read_events(self.folder, [offset])
        return event.detail if isinstance(event, LayerMeasured) else None

    def brought_back(self, scheme: str) -> dict[str, float]:
        """Read, from the run's folder, layer -> share of the memory that rounding it alone brings back."""
        return {layer: unit.share for layer, unit in read_brought_back(self.folder, scheme).items()}

    def arms(self, scheme: str) -> tuple[str, ...]:
        """Return the arms to compare at a scheme: original and unlearned, in full and rounded, and the reference."""
        plan = self.state.plan
        planned = plan.arms if plan is not None else tuple(self.state.arms)
        return arms_in_order(planned, scheme)

    def metrics(self) -> tuple[str, ...]:
        """Return the metrics that have samples or scores, forget metrics first."""
        data = self.state.data
        known = dict.fromkeys([*(data.samples if data else ()), *self.state.scores, *(m for m, _ in self.samples)])
        return tuple(sorted(known, key=_metric_order))

    def answers(self, metric: str, scheme: str) -> list[AnswersOf]:
        """Return every sample of a metric with the score of each arm, in the order of the data file."""
        scores: dict[int, dict[str, float]] = defaultdict(dict)
        offsets: dict[int, dict[str, int]] = defaultdict(dict)
        for arm in self.arms(scheme):
            found = self.samples.get((metric, arm))
            if found is None:
                continue
            for number, score, offset in zip(found.numbers, found.scores, found.offsets, strict=True):
                scores[number][arm] = score
                offsets[number][arm] = offset
        return [AnswersOf(number, scores[number], offsets[number]) for number in sorted(scores)]

    def so_far(self, metric: str, scheme: str) -> KnownSoFar | None:
        """Return what is known and back of the items that all arms have answered so far; None before the first one.

        It has no range and decides nothing: the run's own figures follow when its last arm is done.
        """
        import numpy as np  # a tenth of a second, which the app's start does not need

        from quail_audit.verdict.evidence import is_back
        from quail_audit.verdict.metric_kinds import DECIDING_METRICS

        reference = f"retrain/{FULL}" if f"retrain/{FULL}" in self.arms(scheme) else f"unlearned/{FULL}"
        arms = [f"original/{FULL}", arm_at("unlearned", scheme), reference]
        found = [self.samples[metric, arm] for arm in arms if (metric, arm) in self.samples]
        if metric not in DECIDING_METRICS or len(found) < len(arms):
            return None
        numbers = [np.frombuffer(samples.numbers, dtype=np.int64) for samples in found]
        shared = functools.reduce(np.intersect1d, numbers)
        if not shared.size:
            return None
        original, deployed, floor = (
            np.frombuffer(samples.scores, dtype=np.float64)[order := np.argsort(own)][
                np.searchsorted(own[order], shared)
            ]
            / POINTS
            for samples, own in zip(found, numbers, strict=True)
        )
        to_forget = float((original - floor).mean())
        percent = 100.0 * float((deployed - floor).mean()) / to_forget if to_forget > 0 else None
        return KnownSoFar(percent, back=int(is_back(deployed, original, floor).sum()), items=int(shared.size))

    def texts(self, answers: AnswersOf) -> dict[str, SampleScored]:
        """Read a sample's texts, arm by arm, from the run's folder; they are untrusted.

        Raises:
            BadInputError: the folder can no longer be read.
        """
        return dict(zip(answers.offsets, self._read_samples(list(answers.offsets.values())), strict=True))

    def _read_samples(self, offsets: list[int]) -> Iterator[SampleScored]:
        for event in read_events(self.folder, offsets):
            yield _sample_of(event, self.folder)


@functools.lru_cache(maxsize=64)
def _limits_of(policy: str | None, given: tuple[tuple[str, float], ...]) -> Limits:
    """Return the limits of a run that has not reported them; the defaults if its policy file is not here."""
    try:
        return read_policy(policy, dict(given)).limits
    except QuailError:
        return Limits()


def _sample_of(event: Event, folder: Path) -> SampleScored:
    if not isinstance(event, SampleScored):
        raise BadInputError("the run's events changed while it was open", where=str(folder), mend="Open it again")
    return event


_METRICS_FIRST = (
    *("verbmem_forget", "verbmem_probability_forget", "verbmem_extraction_strength_forget"),
    *("knowmem_forget", "knowmem_probability_forget", "knowmem_extraction_strength_forget"),
    *("accuracy_forget", "label_probability_forget"),
    *("verbmem_retain", "knowmem_retain", "accuracy_retain", "accuracy_test", "agreement_forget"),
    *("privleak", "privleak_m3", "membership_loss", "membership_zlib", "membership_min_k_plus_plus"),
    *("mia_loss_m3", "mia_loss", "mia_confidence_m3", "mia_confidence"),
    *("verbmem_exact_memorization_forget", "knowmem_exact_memorization_forget", "nll_forget", "nll_retain"),
)


def _metric_order(metric: str) -> int:
    return _METRICS_FIRST.index(metric) if metric in _METRICS_FIRST else len(_METRICS_FIRST)

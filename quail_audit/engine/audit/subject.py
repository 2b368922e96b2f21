"""Open what an audit compares: a pair that schemes round, or a pair as it is stored."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from quail_audit.engine.audit.calibrated import measure_calibrated
from quail_audit.engine.audit.differences import differences_of
from quail_audit.engine.audit.input_files import checkpoint_files, given_files
from quail_audit.engine.audit.layers import measure_weights
from quail_audit.engine.audit.other_tensors import read_other_tensors
from quail_audit.engine.audit.scheme_failures import ActiveSchemes, AnyScheme, find_schemes
from quail_audit.engine.audit.stored import StoredPair, stored_pair
from quail_audit.schema.events.audit import DataRead, FilesFound, PairOpened, Planned
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event, Events
from quail_audit.schema.report import FULL
from quail_audit.schema.requests import AuditRequest

if TYPE_CHECKING:
    from quail_audit.engine.audit.work import Work
    from quail_audit.engine.checkpoints.checkpoint import Checkpoint
    from quail_audit.engine.checkpoints.pair import Pair
    from quail_audit.engine.forgetting.data.types import ForgettingData
    from quail_audit.runs.integrity.hashing import FileToHash

Arms = dict[str, "tuple[Checkpoint, AnyScheme | None]"]  # name -> what is loaded, and what rounds it then


@dataclass(frozen=True, eq=False)
class RoundedPair:
    """A pair in full precision.

    Attributes:
        pair: both sides.
        schemes: round them.
    """

    pair: Pair
    schemes: ActiveSchemes
    stored_as: ClassVar[None] = None
    notes: ClassVar[tuple[str, ...]] = ()

    @property
    def arms(self) -> Arms:
        """The arms in order: first those in full precision, which say whether there was anything to forget."""
        pair = self.pair
        arms: Arms = {f"original/{FULL}": (pair.original, None), f"unlearned/{FULL}": (pair.unlearned, None)}
        if pair.retrain is not None:
            arms[_retrain_arm(pair.retrain)] = (pair.retrain, None)
        for scheme in self.schemes.going:
            arms[f"original/{scheme.name}"] = (pair.original, scheme)
            arms[f"unlearned/{scheme.name}"] = (pair.unlearned, scheme)
        return arms

    @property
    def judged(self) -> tuple[str, ...]:
        """The schemes that are judged."""
        return tuple(scheme.name for scheme in self.schemes.going)

    def measure_layers(self, work: Work) -> Events:
        """Measure each layer under every scheme; those that need calibration come last.

        Raises:
            BadInputError: a tensor of a checkpoint is not finite, after every layer has been measured.
        """
        measured = yield from measure_weights(self.pair, self.schemes, work)
        yield from read_other_tensors(self.pair, measured, work)
        yield from measure_calibrated(self.pair, self.schemes, work)


def _retrain_arm(retrain: Checkpoint) -> str:
    """Name the arm of a reference, which is measured as it is stored if it is quantized already."""
    return f"retrain/{retrain.scheme or FULL}"


Subject: TypeAlias = RoundedPair | StoredPair


Opened: TypeAlias = "tuple[Subject, ForgettingData | None, list[FileToHash]]"


def _note_on_tokenizer(request: AuditRequest) -> tuple[str, ...]:
    return ("every arm reads with the original's tokenizer, as was asked",) if request.tokenizer == "original" else ()


def open_subject(request: AuditRequest) -> Generator[Event, None, Opened]:
    """Open checkpoints and data, and say what will be measured; refuse what can be refused before anything is.

    Returns:
        The subject, the data as fitted to it, and the files that both are read from.

    Raises:
        QuailError: schemes, device, data or checkpoints are at fault.
    """
    from quail_audit.engine.audit.asking import notes_on_prompts
    from quail_audit.engine.checkpoints.pair import open_pair  # seconds to import, as is all that touches weights
    from quail_audit.engine.forgetting.data.population import population_by_metric
    from quail_audit.engine.forgetting.data.spellings import Columns
    from quail_audit.engine.forgetting.measurable import fit_data, read_data
    from quail_audit.engine.forgetting.models.device import find_device, find_dtype

    schemes = yield from find_schemes(request.schemes)
    find_device(request.device)
    find_dtype(request.dtype)
    files = list(given_files(request, calibrated=bool(schemes.calibrated)))
    data = None
    if request.data is not None:
        columns = Columns(request.text_column, request.label_column)
        data = read_data(
            request.data,
            metrics=request.metrics,
            max_samples=request.max_samples,
            columns=columns,
            population=request.population,
            at_random=request.stop_when_decided,
            seed=request.seed,
        )
    pair = open_pair(request.original, request.unlearned, request.retrain, request.skip_modules)
    subject = stored_pair(pair, request.schemes) or RoundedPair(pair, schemes)
    if data is not None:
        data = fit_data(data, *(one for one in (pair.original, pair.unlearned, pair.retrain) if one is not None))
    notes_on_asking = () if data is None else notes_on_prompts(pair, data, request)
    yield PairOpened(
        original=pair.original.facts,
        unlearned=pair.unlearned.facts,
        retrain=pair.retrain.facts if pair.retrain else None,
        layers=len(pair.layers),
        weights=sum(layer.weights for layer in pair.layers),
        left_in_full_precision=pair.left_in_full_precision,
        notes=(*pair.notes, *subject.notes, *_note_on_tokenizer(request)),
        differences=differences_of(pair, data, request.tokenizer, request.prompt_format),
    )
    if data is not None:
        yield DataRead(samples=data.samples, skipped=data.skipped, population=population_by_metric(data))
        for note in (*data.notes, *notes_on_asking):
            yield Noted(message=note)
    yield Planned(
        layers=len(pair.layers),
        arms=tuple(subject.arms) if data is not None else (),
        samples_per_arm=sum(data.samples.values()) if data is not None else 0,
        stored_as=subject.stored_as,
    )
    files += checkpoint_files(pair)
    yield FilesFound(files=tuple(file.found for file in files))
    return subject, data, files

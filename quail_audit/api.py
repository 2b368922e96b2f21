"""Run audits, measure two matrices, read and compare reports: the Python API.

The API is behind `import quail_audit as quail`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from difflib import get_close_matches
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from pydantic import PrivateAttr, ValidationError

from quail_audit.core.errors import EnvironmentProblemError, QuailError, UsageError
from quail_audit.core.values import first_problem
from quail_audit.runs import folder as run_folders
from quail_audit.runs.digest import add_digest
from quail_audit.runs.follow import replay
from quail_audit.runs.going_on import drop_journal
from quail_audit.runs.journal import open_journal
from quail_audit.runs.names import JOURNAL, new_run_id
from quail_audit.runs.record import record
from quail_audit.runs.state.audit import AuditState
from quail_audit.schema import report as reports
from quail_audit.schema.command_line import option_of
from quail_audit.schema.events.audit import SampleScored
from quail_audit.schema.figures import LayerStatistics
from quail_audit.schema.requests import AuditRequest
from quail_audit.verdict import comparison

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from quail_audit.engine.schemes.interface import Scheme
    from quail_audit.schema.events.lines import Event, Events

AnyPath = str | os.PathLike[str]
NOT_OPTIONS = frozenset({"goes_on_from"})  # of a request, which quail audit --resume RUN --max-samples N sets
_ARGUMENTS = {option_of(field): field for field in (*AuditRequest.model_fields, "run_dir")}  # errors name the options


class AuditOptions(TypedDict, total=False):
    """The options of `audit`, beside the two checkpoints. Every one may be left out.

    Attributes:
        retrain: reference model trained without the forget set; sets the floor.
        retrain_auc: AUC of Min-40% Prob of such a model, between 0 and 1, if only that is known.
        data: data folder in MUSE layout, or a classifier's. Without it only the weights are measured.
        schemes: names of quantization schemes; "all" among them stands for every one. Default: ["nf4"].
        metrics: names of the metrics to measure. None: every metric that the data has.
        text_column, label_column: columns of a classifier's data. None: `text` or `tweet`, and `label`.
        skip_modules: names of modules that stay in full precision. None: embeddings and head, as bitsandbytes does.
        population: items that the whole forget set has, of which the data has some or all. None: as the data's
            population.json says; without one, any number.
        prompt_format: "raw", questions are asked as texts, "chat", through the tokenizer's chat template, or "auto",
            raw and, if there is a template, through it too.
        max_samples: at most so many samples a metric, drawn at random by the seed.
        stop_when_decided: ask items in blocks, in random order, and no more about a scheme once its verdict is certain.
        batch_size: samples generated at once. None: found automatically.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype: "auto", "float32", "bfloat16" or "float16"; what models compute in.
        tokenizer: "own", each arm reads with its checkpoint's tokenizer, or "original", all with the original's.
        seed: random seed for bootstrap and calibration.
        policy: TOML file of what a release has to meet. None: the default limits; no quail.toml is looked for.
        limits: limit -> value, which count before the policy's: {"max_known_percent": 5}.
        baseline: folder of an earlier run; only what got worse since then fails.
        calibration: file of texts for the calibrated schemes. None: the data's retain texts.
        calibration_samples: at most so many samples of 512 tokens to calibrate on. Default: 128.
    """

    retrain: AnyPath | None
    retrain_auc: float | None
    data: AnyPath | None
    schemes: Iterable[str]
    metrics: Iterable[str] | None
    text_column: str | None
    label_column: str | None
    skip_modules: Iterable[str] | None
    max_samples: int | None
    population: int | None
    prompt_format: Literal["auto", "raw", "chat"]
    stop_when_decided: bool
    batch_size: int | None
    device: str
    dtype: str
    tokenizer: Literal["own", "original"]
    seed: int
    policy: AnyPath | None
    limits: Mapping[str, float]
    baseline: AnyPath | None
    calibration: AnyPath | None
    calibration_samples: int


class Report(reports.Report):
    """An audit's findings: the fields of report.json, shown as the HTML report in a notebook.

    A subclass, because the schema must not import reports.
    """

    _folder: Path | None = PrivateAttr(None)  # the run's, which has the samples

    def __repr__(self) -> str:
        outcome = "no verdict" if self.verdict is None else self.verdict.outcome
        return f"<Report of run {self.run_id}: {outcome} at {', '.join(self.schemes) or 'no scheme'}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return the HTML report in a frame of its own, so that its styles stay in it and its script sees nothing."""
        from quail_audit.reports.formats import FORMATS

        page = "".join(FORMATS["html"](self, self._folder))
        style = "width: 100%; height: 40rem; border: 0"
        return f'<iframe sandbox="allow-scripts" srcdoc="{escape(page)}" style="{style}" title="Quail report"></iframe>'

    def to_frame(self, what: Literal["layers", "scores", "samples"] = "layers") -> pd.DataFrame:
        """Return a table as a pandas DataFrame.

        Args:
            what: "layers": a row for each layer at each scheme, with the fields of LayerStatistics. "scores": a row
                for each metric of each arm, with its mean and 95 % interval in the metric's unit. "samples": a row for
                each sample, with its score and texts, from the run's folder.

        Raises:
            EnvironmentProblemError: pandas is not installed.
            UsageError: there is no such table, or the report has no run folder and so no samples.
        """
        tables = {"layers": self._layers, "scores": self._scores, "samples": self._samples}
        if what not in tables:
            raise UsageError(f"there is no table {what!r}", where="what", mend=f"Known: {', '.join(tables)}")
        try:
            import pandas as pd
        except ImportError as error:
            raise EnvironmentProblemError("to_frame needs pandas", mend="pip install 'quail-audit[frames]'") from error
        columns, rows = tables[what]()
        return pd.DataFrame(rows, columns=columns)

    def _layers(self) -> _Table:
        schemes = self.schemes.items()
        rows = ({"scheme": name, **layer.model_dump()} for name, scheme in schemes for layer in scheme.layers)
        return ["scheme", *LayerStatistics.model_fields], list(rows)

    def _scores(self) -> _Table:
        found = {
            (metric, arm): {"metric": metric, "arm": arm, **score.model_dump()}
            for scheme in self.schemes.values()  # arms in full precision are listed at every scheme
            for metric, arms in scheme.metrics.items()
            for arm, score in arms.items()
        }
        return ["metric", "arm", "mean", "low", "high", "samples"], list(found.values())

    def _samples(self) -> _Table:
        if self._folder is None:
            raise UsageError(
                "a report without a run folder holds no samples",
                where="what",
                mend="Give audit() a run_dir, or read the report from its run's folder",
            )
        columns = ["arm", "metric", "sample", "score", "prompt", "truth", "answer", "probabilities"]
        with closing(replay(self._folder)) as events:
            return columns, [
                event.model_dump(include=set(columns)) for event in events if isinstance(event, SampleScored)
            ]


_Table = tuple[list[str], list[dict[str, Any]]]  # columns, rows


def audit(
    original: AnyPath,
    unlearned: AnyPath,
    *,
    on_event: Callable[[Event], object] | None = None,
    run_dir: AnyPath | None = None,
    **options: Unpack[AuditOptions],
) -> Report:
    """Audit a pair of checkpoints and return the report, with its digest.

        report = quail.audit("original/", "unlearned/", data="data/", schemes=["nf4", "rtn-int4-g128"])
        report.verdict.outcome                                             # "fail"
        report.schemes["nf4"].knowledge["verbmem_forget"].known.percent    # 100.0

    Args:
        original, unlearned: a local folder, a GGUF file or a Hugging Face id; unlearned may be a LoRA adapter.
        on_event: called with each event as it happens.
        run_dir: a new folder that keeps request, events and report, as `quail audit` does. None: nothing is written.
        **options: see AuditOptions.

    Raises:
        UsageError: an option is unknown or makes no sense; `where` names it.
        BadInputError: a checkpoint, data file or policy cannot be used.
        EnvironmentProblemError: a backend, a device, memory or disk is missing.
    """
    state = AuditState()
    with closing(audit_events(original, unlearned, run_dir=run_dir, **options)) as events:
        for event in events:
            state.apply(event)
            if on_event is not None:
                on_event(event)
    return _report(add_digest(state.report()), None if run_dir is None else Path(run_dir))


def audit_events(
    original: AnyPath, unlearned: AnyPath, *, run_dir: AnyPath | None = None, **options: Unpack[AuditOptions]
) -> Events:
    """Audit a pair of checkpoints and yield each event as it happens. Arguments and errors are those of `audit`.

    for event in quail.audit_events("original/", "unlearned/"):
        print(event.type)
    """
    return _events(_request(original, unlearned, options), None if run_dir is None else Path(run_dir))


def measure(w_original: torch.Tensor, w_unlearned: torch.Tensor, scheme: str | Scheme) -> LayerStatistics:
    """Measure what rounding makes of the update of one weight matrix.

    >>> import torch
    >>> import quail_audit as quail
    >>> original = torch.tensor([[1.00, 0.10, -0.30, 0.50]])
    >>> found = quail.measure(original, torch.tensor([[1.00, 0.16, -0.39, 0.56]]), "nf4")
    >>> found.overlap, round(found.survival, 3), round(found.noise, 3), found.state
    (0.25, 1.447, 0.329, 'carried')

    Args:
        w_original, w_unlearned: [rows, columns], float32, float16 or bfloat16, on one device.
        scheme: a scheme's name, or a Scheme of your own.

    Returns:
        The statistics under the default limits, with an empty name. Overlap and identical are shares from 0 to 1,
        survival is 1 if the rounded model carries the whole update, noise is in units of the update.

    Raises:
        UsageError: the tensors do not fit together or with the scheme, or there is no such scheme.
        EnvironmentProblemError: this machine lacks what the scheme needs.
    """
    import torch

    from quail_audit.core.machine import usable_cores
    from quail_audit.engine.schemes.registry import scheme_named
    from quail_audit.engine.weights.pair import pair_sums
    from quail_audit.engine.weights.statistics import layer_statistics

    for argument, matrix in (("w_original", w_original), ("w_unlearned", w_unlearned)):
        if matrix.dim() != 2 or 0 in matrix.shape:
            raise UsageError(f"not a matrix: its shape is {list(matrix.shape)}", where=argument)
        if matrix.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise UsageError(f"is {matrix.dtype}, not float32, float16 or bfloat16", where=argument)
    if (w_original.shape, w_original.device) != (w_unlearned.shape, w_unlearned.device):
        one, other = (f"{list(each.shape)} on {each.device}" for each in (w_original, w_unlearned))
        raise UsageError(f"the matrices do not fit together: {one} and {other}", where="w_unlearned")
    with _arguments_named():
        rounding = scheme_named(scheme) if isinstance(scheme, str) else scheme
    if reason := rounding.why_left_alone(*w_original.shape):
        raise UsageError(f"{rounding.name} does not round such a matrix: {reason}", where="scheme")
    sides = w_original.detach().contiguous(), w_unlearned.detach().contiguous()
    return layer_statistics(pair_sums(*sides, rounding, threads=usable_cores()), name="", block=None, role="")


def read_report(path: AnyPath) -> Report:
    """Read the report of an audit from its run's folder, or from a report.json that stands alone.

    A run that goes on or was killed has a report too, of what it has measured.

    Raises:
        BadInputError: there is no audit's report.
    """
    found = Path(path)
    return _report(run_folders.read_report(found), found if found.is_dir() else None)


def compare(before: reports.Report | AnyPath, after: reports.Report | AnyPath) -> comparison.Comparison:
    """Compare two audits, scheme by scheme, metric by metric and layer by layer.

    Args:
        before, after: reports, or what `read_report` reads.

    Raises:
        BadInputError: there is no audit's report.
    """
    one, other = (each if isinstance(each, reports.Report) else read_report(each) for each in (before, after))
    return comparison.compare(one, other)


def _report(report: reports.Report, folder: Path | None) -> Report:
    made = Report.model_construct(**dict(report))
    made._folder = folder
    return made


def _request(original: AnyPath, unlearned: AnyPath, options: AuditOptions) -> AuditRequest:
    from quail_audit.engine.schemes.registry import expand_names

    given: dict[str, Any] = {"original": original, "unlearned": unlearned, **options}
    for name, value in given.items():
        if name not in AuditRequest.model_fields or name in NOT_OPTIONS:
            near = get_close_matches(name, AuditRequest.model_fields, n=1)
            known = f"Known: {', '.join(AuditRequest.model_fields)}"
            raise UsageError("no such argument", where=name, mend=f"Did you mean {near[0]}? {known}" if near else known)
        if isinstance(value, os.PathLike):
            given[name] = os.fspath(value)
    if not isinstance(given.get("schemes", ""), str):
        given["schemes"] = expand_names(given["schemes"])
    try:
        return AuditRequest.model_validate(given)
    except ValidationError as error:
        place, problem = first_problem(error)
        raise UsageError(problem, where=place) from error


def _events(request: AuditRequest, run_dir: Path | None) -> Events:
    from quail_audit.engine.audit.run import audit as run

    run_id = new_run_id()
    baseline = None if request.baseline is None else run_folders.read_report(Path(request.baseline))
    with _arguments_named():
        if run_dir is None:
            yield from run(request, run_id, baseline=baseline)
            return
        with (
            run_folders.new_run(run_dir, request) as folder,
            open_journal(folder / JOURNAL) as journal,
            closing(record(run(request, run_id, baseline=baseline, journal=journal), folder)) as events,
        ):
            yield from events
        drop_journal(run_dir, run_folders.read_report(run_dir))


@contextmanager
def _arguments_named() -> Iterator[None]:
    """Let an error name the argument, where the engine names the command's option."""
    try:
        yield
    except QuailError as error:
        error.where = _ARGUMENTS.get(error.where, error.where)
        raise

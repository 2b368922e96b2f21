"""Run the work of one scheme at a time, and go on without a scheme that fails.

A scheme's library may fail in any way: then the scheme is dropped with its reason, and the others go on.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from quail_audit.core import interruption
from quail_audit.core.errors import EXIT_ENVIRONMENT, EnvironmentProblemError, QuailError
from quail_audit.core.values import Value
from quail_audit.runs.journal import Journal, collect
from quail_audit.schema.events.audit import (
    ArmStarted,
    LayerMeasured,
    LayerQuantized,
    MetricScored,
    SchemeFailed,
    WeightsMeasured,
)
from quail_audit.schema.events.common import Noted
from quail_audit.schema.events.lines import Event
from quail_audit.schema.report import Failure

if TYPE_CHECKING:
    from quail_audit.engine.schemes.calibrated import CalibratedScheme
    from quail_audit.engine.schemes.interface import ByLayer, Scheme


AnyScheme: TypeAlias = "Scheme | CalibratedScheme | ByLayer"
Said = ArmStarted | LayerMeasured | LayerQuantized | MetricScored | Noted | WeightsMeasured  # samples are not kept
R = TypeVar("R")


class KeptFailure(Value):
    """A scheme's failure at a piece of work, and the events of that work before it, without samples."""

    said: tuple[Said, ...]
    failed: SchemeFailed


@dataclass
class ActiveSchemes:
    """The schemes of an audit: those that go on, and those that could not be measured.

    Attributes:
        going: those that can still be measured.
        failed: name -> why it could not be measured.
    """

    going: tuple[AnyScheme, ...]
    failed: dict[str, SchemeFailed] = field(default_factory=dict)

    @property
    def data_free(self) -> tuple[Scheme, ...]:
        """The schemes that go on and look at nothing but a matrix."""
        from quail_audit.engine.schemes.interface import Scheme

        return tuple(scheme for scheme in self.going if isinstance(scheme, Scheme))

    @property
    def calibrated(self) -> tuple[CalibratedScheme, ...]:
        """The schemes that go on and are calibrated by a backend."""
        from quail_audit.engine.schemes.calibrated import CalibratedScheme

        return tuple(scheme for scheme in self.going if isinstance(scheme, CalibratedScheme))

    def run(
        self, scheme: str, work: Generator[Event, None, R], journal: Journal, where: str = ""
    ) -> Generator[Event, None, R | None]:
        """Run one scheme's work. Return its result, or None if the scheme failed and was dropped.

        A failure stands when a stopped run is resumed, even if it would not recur: the report is that of a run that
        was never stopped. A failure of the last scheme ends the run, so that one is tried again.

        Args:
            scheme: the name of the only one at work; its library may fail in any way.
            work: yields the events.
            journal: the run's.
            where: the layer or the arm at which this is.
        """
        before = journal.find(KeptFailure, "failed", scheme, where)
        if before is not None:
            yield from before.said
            self._leave_out(before.failed)
            yield before.failed
            return None
        said: list[Any] = []
        try:
            return (yield from collect(work, said))
        except Exception as error:
            for failed in self.drop(scheme, error, where):
                if self.going:
                    journal.keep(KeptFailure(said=tuple(said), failed=failed), "failed", scheme, where)
                yield failed
            return None

    def drop(self, scheme: str, error: Exception, where: str = "") -> Iterator[SchemeFailed]:
        """Say why a scheme cannot be measured, and go on without it.

        Raises the error itself if no scheme is left, or the audit was asked to stop.

        Args:
            scheme: the name of the one to drop.
            error: anything that its library or Quail raised while only this scheme was at work.
            where: the layer or the arm at which that happened.
        """
        if interruption.is_requested():
            raise error
        failed = _scheme_failed(scheme, error, where)
        self._leave_out(failed)
        yield failed
        if not self.going:
            raise error

    def _leave_out(self, failed: SchemeFailed) -> None:
        self.failed[failed.scheme] = failed
        self.going = tuple(other for other in self.going if other.name != failed.scheme)


def _scheme_failed(scheme: str, error: Exception, where: str) -> SchemeFailed:
    if isinstance(error, QuailError):
        why = Failure.of(error).model_dump() | {"where": error.where or where}
        return SchemeFailed(scheme=scheme, exit_code=error.exit_code, **why)
    return SchemeFailed(
        scheme=scheme,
        kind="backend",
        message=f"{type(error).__name__}: {error}",
        where=where,
        mend=f"Run again with a traceback: quail --debug audit … --scheme {scheme}",
        exit_code=EXIT_ENVIRONMENT,
    )


def find_schemes(names: Sequence[str]) -> Generator[Event, None, ActiveSchemes]:
    """Return the schemes that this machine can run; say what the others lack.

    Raises:
        UsageError: no scheme has one of the names.
        EnvironmentProblemError: none of them can run.
    """
    from quail_audit.engine.schemes.registry import any_scheme_named

    found: list[AnyScheme] = []
    lacking = {}
    for name in names:
        try:
            found.append(any_scheme_named(name))
        except EnvironmentProblemError as error:
            lacking[name] = error
    schemes = ActiveSchemes(tuple(found))
    for name, why in lacking.items():
        yield from schemes.drop(name, why)
    return schemes

"""Read which layers bring the memory back from the attributions in an audit's run folder.

`quail attribute RUN` records itself in RUN/cures. Later reports and the open app read it there.
"""

from collections.abc import Mapping
from pathlib import Path

from quail_audit.core.errors import QuailError
from quail_audit.runs.folder import read_request
from quail_audit.runs.follow import replay
from quail_audit.schema.events.cures import UnitMeasured
from quail_audit.schema.report import Report
from quail_audit.schema.requests import AttributeRequest

CURES_FOLDER = "cures"  # in an audit's run folder: the runs of its cures

BroughtBack = Mapping[str, UnitMeasured]  # layer -> what rounding it alone brings back


def read_units(run: Path, scheme: str) -> list[UnitMeasured]:
    """Return what the latest attribution of an audit under a scheme found; empty if there is none."""
    for folder in sorted(run.glob(f"{CURES_FOLDER}/*-attribute"), reverse=True):
        asked = read_request(folder)
        if not isinstance(asked, AttributeRequest) or asked.scheme != scheme:
            continue
        try:
            units = [event for event in replay(folder) if isinstance(event, UnitMeasured)]
        except QuailError:  # truncated or edited: try an older one
            continue
        if units:
            return units
    return []


def read_brought_back(run: Path, scheme: str) -> dict[str, UnitMeasured]:
    """Return the layers that were rounded alone, with what each brings back."""
    alone = (unit for unit in read_units(run, scheme) if unit.mode == "alone" and len(unit.layers) == 1)
    return {unit.layers[0]: unit for unit in alone}


def read_brought_back_by_scheme(report: Report, run: Path | None) -> dict[str, BroughtBack]:
    """Return the same for every scheme with an attribution; empty without a run's folder."""
    if run is None or not (run / CURES_FOLDER).is_dir():
        return {}
    found = {scheme: read_brought_back(run, scheme) for scheme in report.schemes}
    return {scheme: layers for scheme, layers in found.items() if layers}

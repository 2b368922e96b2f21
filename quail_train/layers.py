"""Which layers are trained: from --layers to the layers of a pair.

Only layers that a scheme rounds can be chosen; embeddings, norms and the head stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from quail_audit.core.errors import BadInputError, UsageError

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.pair import Layer

ALL, AT_RISK = "all", "at-risk"
_BLOCKS = re.compile(r"(\d+)(?:-(\d+))?")
FORMS = "all, at-risk, block:3 or block:3-7, role:down_proj, name:GLOB"


def select_layers(layers: Sequence[Layer], selectors: Sequence[str], at_risk: frozenset[str]) -> tuple[Layer, ...]:
    """The layers that any selector matches, in model order.

    Args:
        layers: that can be trained.
        selectors: as on the command line.
        at_risk: names of the layers that "at-risk" means.

    Raises:
        UsageError: a selector that is none, or that matches no layer.
    """
    chosen: set[str] = set()
    for selector in selectors:
        matched = {layer.name for layer in layers if _matches(layer, selector, at_risk)}
        if not matched:
            raise UsageError(
                "no layer is at risk in that report" if selector == AT_RISK else f"no layer matches {selector!r}",
                where="--layers",
                mend=_what_there_is(layers),
            )
        chosen |= matched
    return tuple(layer for layer in layers if layer.name in chosen)


def layers_at_risk(run: str, scheme: str) -> frozenset[str]:
    """The names of the layers at risk under a scheme, from an audit's run folder.

    Raises:
        BadInputError: no such run, or it did not measure the scheme.
    """
    from quail_audit.runs.folder import read_report

    report = read_report(Path(run))
    measured = report.schemes.get(scheme)
    if measured is None or not measured.layers:
        raise BadInputError(
            f"the run measured no layers under {scheme}",
            where=run,
            mend=f"It measured {', '.join(report.schemes)}: give one of these as --scheme, or audit with {scheme}",
        )
    return frozenset(layer.name for layer in measured.layers if layer.at_risk)


def _matches(layer: Layer, selector: str, at_risk: frozenset[str]) -> bool:
    if selector == ALL:
        return True
    if selector == AT_RISK:
        return layer.name in at_risk
    kind, _, value = selector.partition(":")
    if kind == "role" and value:
        return layer.role == value
    if kind == "name" and value:
        return fnmatchcase(layer.name, value)
    if kind == "block" and (found := _BLOCKS.fullmatch(value)):
        first, last = int(found[1]), int(found[2] or found[1])
        return layer.block is not None and first <= layer.block <= last
    raise UsageError(f"cannot read {selector!r}", where="--layers", mend=f"Give one of: {FORMS}")


def _what_there_is(layers: Sequence[Layer]) -> str:
    blocks = sorted({layer.block for layer in layers if layer.block is not None})
    roles = ", ".join(dict.fromkeys(layer.role for layer in layers))
    numbered = f"blocks {blocks[0]} to {blocks[-1]}, " if blocks else ""
    return f"There are {numbered}roles {roles}; names as in {layers[0].name}"

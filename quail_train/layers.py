"""Select the layers that --layers names.

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
    """Return the layers that any selector matches, in model order.

    Args:
        layers: layers to choose from.
        selectors: as on the command line.
        at_risk: names of the layers that "at-risk" selects.

    Raises:
        UsageError: a selector cannot be read, or matches no layer.
    """
    chosen: set[str] = set()
    for selector in selectors:
        matched = {layer.name for layer in layers if _matches(layer, selector, at_risk)}
        if not matched:
            raise UsageError(
                "no layer is at risk in that report" if selector == AT_RISK else f"no layer matches {selector!r}",
                where="--layers",
                mend=_choices(layers),
            )
        chosen |= matched
    return tuple(layer for layer in layers if layer.name in chosen)


def refuse_experts(layers: Sequence[Layer], of: Sequence[Layer], verb: str) -> None:
    """Refuse layers that share a parameter with others, as the experts of a mixture do.

    Args:
        layers: the layers that were chosen.
        of: the layers to choose from.
        verb: what is done to them.

    Raises:
        UsageError: names the first, and says how to choose others.
    """
    experts = [layer for layer in layers if layer.part is not None]
    if experts:
        others = [layer for layer in of if layer.part is None]
        raise UsageError(
            f"{len(experts)} of the chosen layers are experts' matrices, which lie in one parameter with others: "
            f"{experts[0].name}; Quail cannot {verb} them one by one",
            where="--layers",
            mend="Choose others by their roles: "
            + " ".join(f"--layers role:{role}" for role in dict.fromkeys(each.role for each in others)),
        )


def names_at_risk(selectors: Sequence[str], run: str | None, scheme: str) -> frozenset[str]:
    """Return the layers that "at-risk" selects: those at risk under the scheme. Empty if no selector is "at-risk".

    Args:
        selectors: as on the command line.
        run: run folder of an audit; None: not given.
        scheme: code of the scheme.

    Raises:
        BadInputError: the run is not given, does not exist, or did not measure the scheme.
    """
    from quail_audit.runs.folder import read_report

    if AT_RISK not in selectors:
        return frozenset()
    if run is None:
        raise BadInputError(
            "needs an audit that measured which layers are at risk",
            where=f"--layers {AT_RISK}",
            mend="Name the audit's run folder with --report, or choose other layers",
        )
    report = read_report(Path(run))
    measured = report.schemes.get(scheme)
    if measured is None or not measured.layers:
        raise BadInputError(
            f"the run measured no layers under {scheme}",
            where=run,
            mend=f"Give a scheme that it measured ({', '.join(report.schemes)}) as --scheme, or audit with {scheme}",
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


def _choices(layers: Sequence[Layer]) -> str:
    blocks = sorted({layer.block for layer in layers if layer.block is not None})
    roles = ", ".join(dict.fromkeys(layer.role for layer in layers))
    numbered = f"blocks {blocks[0]} to {blocks[-1]}, " if blocks else ""
    return f"There are {numbered}roles {roles}; names as in {layers[0].name}"

"""Find the shortest `--layers` that means exactly a choice of layers.

Few specifications cover a choice: the layers at risk, whole roles, runs of whole blocks, and patterns of names for the
rest. No specification selects a layer that was not chosen. The least number is a set cover, so the largest
specification is taken first, which is the least in every ordinary case.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import translate

from quail_audit.schema.figures import LayerStatistics

ALL, AT_RISK = "all", "at-risk"


def layer_specs(
    layers: Sequence[LayerStatistics], chosen: Collection[str], at_risk: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the values of `--layers` that select exactly the chosen layers; none if none is chosen.

    Args:
        layers: every layer that can be trained, in model order.
        chosen: names of some of them.
        at_risk: names of those that "at-risk" means to the command; empty if it may not be used.
    """
    wanted, risky = frozenset(chosen), frozenset(at_risk)
    if wanted and wanted == risky:
        return (AT_RISK,)
    if len(wanted) == len(layers):
        return (ALL,) if layers else ()
    candidates = {AT_RISK: risky} if risky <= wanted else {}
    candidates |= {spec: names for spec, names in _roles(layers) if names <= wanted}
    candidates |= dict(_block_runs(layers, wanted))
    specs, left = _cover(candidates, wanted)
    if left:
        more, _ = _cover(dict(_patterns(layers, wanted, left)), left)
        specs |= more
    return tuple(sorted(_drop_covered(specs), key=lambda spec: _sort_key(spec, layers)))


def _cover(
    candidates: Mapping[str, frozenset[str]], wanted: frozenset[str]
) -> tuple[dict[str, frozenset[str]], frozenset[str]]:
    """Choose the largest candidate first, until none adds anything; return them and what none holds."""
    usable = {spec: names for spec, names in candidates.items() if names}
    left, taken = wanted, {}
    while left and usable:
        best = max(usable, key=lambda spec: (len(usable[spec] & left), -len(spec)))
        if not usable[best] & left:
            break
        taken[best] = usable.pop(best)
        left -= taken[best]
    return taken, left


def _drop_covered(specs: Mapping[str, frozenset[str]]) -> list[str]:
    """Drop the ones that the others cover: a large one taken early may have become redundant."""
    kept = dict(specs)
    for spec in sorted(specs, key=lambda spec: len(specs[spec])):
        others = frozenset[str]().union(*(names for other, names in kept.items() if other != spec))
        if kept[spec] <= others:
            del kept[spec]
    return list(kept)


def _sort_key(spec: str, layers: Sequence[LayerStatistics]) -> tuple[int, int, str]:
    """Sort key: kinds in one order, blocks in theirs, so that a choice is always written alike."""
    kind = (AT_RISK, "block", "role", "name").index(spec.partition(":")[0])
    first = re.match(r"block:(\d+)", spec)
    return kind, int(first[1]) if first else 0, spec


def _roles(layers: Sequence[LayerStatistics]) -> Iterator[tuple[str, frozenset[str]]]:
    names: dict[str, set[str]] = defaultdict(set)
    for layer in layers:
        names[layer.role].add(layer.name)
    for role, found in names.items():
        if role:
            yield f"role:{role}", frozenset(found)


def _block_runs(layers: Sequence[LayerStatistics], wanted: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Return runs of blocks that are wanted whole, each as long as possible."""
    blocks: dict[int, set[str]] = defaultdict(set)
    for layer in layers:
        if layer.block is not None:
            blocks[layer.block].add(layer.name)
    run: list[int] = []
    for block in [*sorted(blocks), None]:
        if block is not None and blocks[block] <= wanted:
            run.append(block)
        elif run:
            spec = f"block:{run[0]}" if len(run) == 1 else f"block:{run[0]}-{run[-1]}"
            yield spec, frozenset[str]().union(*(blocks[number] for number in run))
            run = []


def _patterns(
    layers: Sequence[LayerStatistics], wanted: frozenset[str], left: frozenset[str]
) -> Iterator[tuple[str, frozenset[str]]]:
    """Return patterns for what is left: a module's layers, one layer of several blocks, a single layer."""
    by_name = {layer.name: layer for layer in layers}
    for pattern in dict.fromkeys(_possible_patterns([by_name[name] for name in by_name if name in left])):
        matches = re.compile(translate(pattern)).match
        names = frozenset(name for name in by_name if matches(name))
        if names <= wanted:
            yield f"name:{pattern}", names


def _possible_patterns(layers: Sequence[LayerStatistics]) -> Iterator[str]:
    blocks: dict[tuple[str, str], list[int]] = defaultdict(list)
    for layer in layers:
        for parts in (layer.name.split("."), [*layer.name.split(".")[:-1], "*"]):
            escaped = [part if part == "*" else _escape(part) for part in parts]
            yield ".".join(escaped)
            number = str(layer.block)
            if layer.block is not None and number in escaped:
                at = escaped.index(number)
                blocks[".".join(escaped[:at]), ".".join(escaped[at + 1 :])].append(layer.block)
    for (before, after), numbers in blocks.items():
        for digits in _digit_patterns(numbers):
            yield ".".join(part for part in (before, digits, after) if part)


def _digit_patterns(numbers: Sequence[int]) -> Iterator[str]:
    """Return patterns of whole numbers that differ at most in their last digit: 12, 1[2-5], [0-9]."""
    by_tens: dict[int, set[int]] = defaultdict(set)
    for number in numbers:
        by_tens[number // 10].add(number % 10)
    for tens, found in by_tens.items():
        lead, digits = str(tens) if tens else "", sorted(found)
        consecutive = digits[-1] - digits[0] + 1 == len(digits)
        inside = f"{digits[0]}-{digits[-1]}" if consecutive and len(digits) > 2 else "".join(map(str, digits))
        yield f"{lead}[{inside}]" if len(digits) > 1 else f"{lead}{inside}"


def _escape(text: str) -> str:
    """Escape a pattern's signs in a name, which is untrusted."""
    return re.sub(r"([*?[])", r"[\1]", text)

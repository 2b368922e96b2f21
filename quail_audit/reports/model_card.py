"""Put an audit's results into the metadata of a model card for the Hugging Face Hub.

A model card is the README.md of a model there. Only report.json is read. The rest of the card stays as it is, byte for
byte; only results that Quail wrote for the same data and schemes are replaced. Metrics have Quail's own names, quail_…;
a result's config is the scheme.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from quail_audit.core.errors import BadInputError
from quail_audit.core.untrusted import printable
from quail_audit.core.writing import write_whole
from quail_audit.reports import findings
from quail_audit.schema.figures import Estimate, Knowledge
from quail_audit.schema.report import FULL, Report, arm_at
from quail_audit.verdict.standings import scheme_standings

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

LARGEST_BYTES = 4 * 2**20
_PREFIX = "quail_"
_KEY = "model-index"
_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


def write_model_card(report: Report, path: Path) -> None:
    """Put an audit's results into a model card, or into a new one if there is none.

    Raises:
        BadInputError: the file is not a model card: not text, or its metadata is not a YAML mapping.
        EnvironmentProblemError: the file cannot be written; then it is unchanged.
    """
    text = _read(path)
    try:
        changed = card_with_results(text, report)
    except ValueError as error:
        raise BadInputError(
            str(error), where=str(path), mend="Correct the metadata between the two --- lines"
        ) from error
    write_whole(path, changed)


def _read(path: Path) -> str:
    """Return the card with its own line ends, or nothing if there is no file."""
    try:
        with path.open("rb") as file:
            found = file.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise BadInputError(f"cannot read the model card: {error.strerror or error}", where=str(path)) from error
    if len(found) > LARGEST_BYTES:
        raise BadInputError(f"too large for a model card: over {LARGEST_BYTES} bytes", where=str(path))
    try:
        return found.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInputError(f"not text in UTF-8: {error}", where=str(path)) from error


def card_with_results(text: str, report: Report) -> str:
    """Return the card with the results in it.

    Raises:
        ValueError: the card's metadata cannot be read.
    """
    import yaml

    newline = "\r\n" if "\r\n" in text else "\n"
    found = _FRONT_MATTER.search(text)
    block: str = found[1] if found else ""
    try:
        node = yaml.compose(block, Loader=yaml.SafeLoader)
        metadata = yaml.safe_load(block)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"its metadata is not YAML: {' '.join(str(error).split())}") from error
    if node is not None and (not isinstance(node, yaml.MappingNode) or node.flow_style):
        raise ValueError("its metadata is not a YAML mapping with one name a line")
    places = [(key, value) for key, value in node.value if key.value == _KEY] if node is not None else []
    if len(places) > 1:
        raise ValueError(f"its metadata has {_KEY} twice")
    index = _merge_results(metadata.get(_KEY) if isinstance(metadata, dict) else None, report)
    dumped: str = yaml.safe_dump({_KEY: index}, sort_keys=False, allow_unicode=True).replace("\n", newline)
    if places:
        key, value = places[0]
        start, end = int(key.start_mark.index), int(value.end_mark.index)
        old = block[start:end]
        kept = re.search(r"(?:^[ \t]*(?:#.*)?\r?\n)*\Z", old, re.MULTILINE)  # YAML counts these lines to the block
        block = block[:start] + dumped + (kept[0] if kept else "") + block[end:].removeprefix(newline)
    else:
        block += dumped
    before, after = (
        (text[: found.start(1)], text[found.end(1) :]) if found else (f"---{newline}", f"---{newline}{text}")
    )
    return before + block + after


def _merge_results(index: Any, report: Report) -> list[dict[str, Any]]:
    """Return the card's model index with this audit's results in its first model, instead of earlier ones."""
    from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

    found: list[dict[str, Any]] = index or [{"name": _model_name(report), "results": []}]
    try:
        model_index_to_eval_results(found)
        name, old = found[0]["name"], found[0]["results"]
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"its {_KEY} is not as the Hub writes it: {type(error).__name__}: {error}") from error
    new = list(eval_results(report))
    configs = {result.metric_config for result in new}
    kept = []
    for result in old:
        is_same_data = result["dataset"]["name"] == _data_name(report)
        metrics = [
            metric
            for metric in result["metrics"]
            if not (is_same_data and str(metric["type"]).startswith(_PREFIX) and metric.get("config") in configs)
        ]
        if metrics:
            kept.append({**result, "metrics": metrics})
    added = eval_results_to_model_index(name, new)[0]["results"] if new else []
    return [{**found[0], "results": [*kept, *added]}, *found[1:]]


def eval_results(report: Report) -> Iterator[EvalResult]:
    """Yield each scheme's verdict, weight statistics, what is known and kept, and the deployed model's scores."""
    for each in scheme_standings(report):
        scheme, measured = each.scheme, report.schemes[each.scheme]
        if each.standing not in ("not measured", "unknown"):
            yield _result(report, scheme, "verdict", f"Verdict at {scheme}", each.standing)
        if measured.summary is not None:
            summary = measured.summary
            for name, value in (("overlap", summary.overlap), ("survival", summary.survival), ("noise", summary.noise)):
                if value is not None:
                    yield _result(report, scheme, name, f"Weights: {name} at {scheme}", value)
            at_risk = f"Weights: layers at risk at {scheme}, of {len(measured.layers)}"
            yield _result(report, scheme, "layers_at_risk", at_risk, summary.layers_at_risk)
        for metric, knowledge in measured.knowledge.items():
            yield from _knowledge(report, scheme, metric, knowledge)
        for metric, kept in measured.utility.items():
            if (utility := kept.utility) is not None:
                name = f"{findings.full_title(metric)}: utility kept at {scheme}, %"
                yield _result(report, scheme, f"utility_{metric}", name, utility.percent, _bounds(utility))
            if kept.format_percent is not None:
                name = f"{findings.full_title(metric)}: left to the original at {scheme}, %"
                yield _result(report, scheme, f"format_{metric}", name, kept.format_percent)
        yield from _scores(report, scheme, arm_at("unlearned", scheme))
    if report.schemes:  # every scheme has the same scores in full precision
        yield from _scores(report, next(iter(report.schemes)), f"unlearned/{FULL}", config=FULL)


def _knowledge(report: Report, scheme: str, metric: str, found: Knowledge) -> Iterator[EvalResult]:
    """Yield how many items are back, what is known, and how much of it was not forgotten or came back."""
    title = findings.full_title(metric)
    if found.back is not None:
        items = {"items": found.back.items, "low_percent": found.back.low, "high_percent": found.back.high}
        yield _result(report, scheme, f"back_{metric}", f"{title}: items back at {scheme}", found.back.count, items)
    if found.known is not None:
        bounds = {**_bounds(found.known), "outcome": found.outcome}
        yield _result(report, scheme, f"known_{metric}", f"{title}: known at {scheme}, %", found.known.percent, bounds)
    if found.residual is not None:
        name = f"{title}: known in full precision, %"
        yield _result(report, scheme, f"residual_{metric}", name, found.residual.percent, _bounds(found.residual))
    if found.came_back_percent is not None and found.outcome != "reported only":
        name = f"{title}: came back through {scheme}, %"
        yield _result(report, scheme, f"came_back_{metric}", name, found.came_back_percent)


def _bounds(found: Estimate) -> dict[str, float | str | None]:
    return {"low": found.low, "high": found.high, "items": found.items or None}


def _scores(report: Report, scheme: str, arm: str, config: str = "") -> Iterator[EvalResult]:
    for metric, arms in report.schemes[scheme].metrics.items():
        if arm in arms:
            score = arms[arm]
            name = f"{findings.full_title(metric)}: {arm}"
            bounds = {"low": score.low, "high": score.high, "samples": score.samples}
            yield _result(report, config or scheme, metric, name, score.mean, bounds)


def _result(
    report: Report,
    config: str,
    metric: str,
    name: str,
    value: float | str,
    bounds: Mapping[str, float | str | None] | None = None,
) -> EvalResult:
    from huggingface_hub import EvalResult

    facts = report.checkpoints.get("unlearned")
    is_classifier = facts is not None and (facts.architecture or "").endswith("ForSequenceClassification")
    data = _data_name(report)
    return EvalResult(
        task_type="text-classification" if is_classifier else "text-generation",
        task_name="Forgetting under quantization",
        dataset_type=data,
        dataset_name=data,
        metric_type=_PREFIX + printable(metric),
        metric_name=printable(name),
        metric_config=printable(config),
        metric_value=_round(value),
        metric_args={key: _round(bound) for key, bound in (bounds or {}).items() if bound is not None} or None,
    )


def _round(value: float | str) -> float | str:
    """Round to six digits, more than any interval has."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _data_name(report: Report) -> str:
    """Return the data folder's name without its path."""
    return printable(PurePath(report.request.data).name) if report.request.data else "weights only"


def _model_name(report: Report) -> str:
    return printable(PurePath(report.request.unlearned.partition("@")[0]).name) or "model"

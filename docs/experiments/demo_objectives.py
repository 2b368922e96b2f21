"""Train each objective on the demo's confined checkpoint, and print a table.

    quail demo
    python docs/experiments/demo_objectives.py --demo quail-demo --out objectives.jsonl
    python docs/experiments/demo_objectives.py --demo quail-demo --out objectives.jsonl --table

Each row is one training of all layers from the confined checkpoint: AdamW 1e-3 with a linear decay, 60 steps of 8
forget and 8 retain samples, lambda 1, alpha 2, gradient ascent capped at 6 nats where it is capped. Forget and retain
are VerbMem as the audit measures it, in full precision and rounded to nf4 and fp4. A row that is in the file already is
not made again, so that the script can be stopped and gone on with. --part picks some of the rows, --seeds how many.
About 25 s a row on one core.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quail_audit.core.errors import QuailError
from quail_audit.engine.audit.run import audit
from quail_audit.schema.requests import AuditRequest, TrainRequest
from quail_train.objectives.presets import preset_named
from quail_train.training.run import train
from quail_train.training.work import Stop

FORMS = ("per-logit", "centred", "log-probability", "l1", "l2", "true-token")
MARGINS: tuple[float | None, ...] = (None, 0.5, 2.0, 5.0)
COMMON: dict[str, Any] = {
    "max_steps": 60,
    "learning_rate": 1e-3,
    "batch_size": 8,
    "max_length": 72,
    "retain_weight": 2.0,
    "device": "cpu",
}


def presets() -> Iterator[dict[str, Any]]:
    """Every named preset without a hinge, as it is and with the cap."""
    for forget in ("ga", "npo", "simnpo"):
        for retain in ("", "_gdr", "_klr"):
            yield {"objective": f"{forget}{retain}"}
    yield {"objective": "ga_gdr", "forget_loss_cap": 6.0}
    yield {"objective": "ga_gdr_l1"}
    yield {"objective": "sure"}
    yield {"objective": "lora"}
    yield {"objective": "hinge_gdr", "hinge_weight": 0.0}  # nothing but the retain term: what mere training does


def hinges() -> Iterator[dict[str, Any]]:
    """The hinge in the place of gradient ascent: every form, margin and precision."""
    for precision in ("full", "quantized"):
        for form in FORMS:
            for margin in MARGINS:
                yield {
                    "objective": "hinge_gdr",
                    "hinge": form,
                    "hinge_precision": precision,
                    "margin_logits": margin,
                }


def papers() -> Iterator[dict[str, Any]]:
    """The paper's objective by margin, and the same with ascent capped, against no hinge."""
    for margin in MARGINS:
        yield {"objective": "ga_gdr_l1_hinge", "margin_logits": margin}
    for margin in (None, 5.0):
        yield {"objective": "ga_gdr_l1_hinge", "margin_logits": margin, "forget_loss_cap": 6.0}
    yield {"objective": "ga_gdr_hinge", "hinge": "centred", "hinge_precision": "quantized", "margin_logits": 5.0}
    for objective in ("npo_gdr_hinge", "npo_klr_hinge", "hinge_klr"):
        yield {"objective": objective, "hinge": "centred", "hinge_precision": "quantized", "margin_logits": 5.0}


def gentle() -> Iterator[dict[str, Any]]:
    """A tenth of the learning rate, where updates are small against the buckets."""
    small = {"learning_rate": 1e-4, "forget_loss_cap": 6.0}
    yield {"objective": "ga_gdr", **small}
    for margin in (None, 5.0):
        yield {"objective": "ga_gdr_l1_hinge", "margin_logits": margin, **small}
    yield {"objective": "hinge_gdr", "hinge_weight": 0.0, "learning_rate": 1e-4}
    for form, precision in (("per-logit", "full"), ("centred", "full"), ("centred", "quantized")):
        yield {
            "objective": "hinge_gdr",
            "hinge": form,
            "hinge_precision": precision,
            "margin_logits": 5.0,
            "learning_rate": 1e-4,
        }


def variations() -> Iterator[dict[str, Any]]:
    """Each named preset with the hinge, one thing at a time changed from the centred form, 5 logits, quantized."""
    usual = {"hinge": "centred", "hinge_precision": "quantized", "margin_logits": 5.0}
    changes: list[dict[str, Any]] = [
        {},
        {"hinge_precision": "full"},
        *({"hinge": form} for form in FORMS if form != "centred"),
        *({"margin_logits": margin} for margin in MARGINS if margin != 5.0),
    ]
    for forget in ("ga", "npo"):
        for retain in ("", "_gdr", "_klr"):
            for change in changes:
                yield {"objective": f"{forget}{retain}_hinge", **usual, **change}


def telling() -> Iterator[dict[str, Any]]:
    """The twelve rows that the conclusions rest on, for several seeds."""
    yield {"objective": "hinge_gdr", "hinge_weight": 0.0}
    yield {"objective": "ga_gdr"}
    yield {"objective": "ga_gdr_l1_hinge", "margin_logits": None}
    yield {"objective": "ga_gdr", "forget_loss_cap": 6.0}
    yield {"objective": "ga_gdr_l1_hinge", "margin_logits": 5.0, "forget_loss_cap": 6.0}
    centred = {"objective": "hinge_gdr", "hinge": "centred", "hinge_precision": "full", "margin_logits": 5.0}
    through_rounded = {**centred, "hinge_precision": "quantized"}
    yield {**centred, "hinge": "per-logit"}
    yield centred
    yield through_rounded
    yield {**through_rounded, "objective": "npo_gdr_hinge"}
    yield {"objective": "ga_gdr", "learning_rate": 1e-4, "forget_loss_cap": 6.0}
    yield {**centred, "learning_rate": 1e-4}
    yield {**through_rounded, "learning_rate": 1e-4}


PARTS = {
    "presets": presets,
    "papers": papers,
    "hinges": hinges,
    "gentle": gentle,
    "variations": variations,
    "telling": telling,
}


def train_and_audit(
    folder_of: dict[str, Path], settings: dict[str, Any], common: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Train and audit. Return the row.

    Args:
        folder_of: original, unlearned, data.
        settings: of the training, what tells the row from others.
        common: of all rows.
        seed: of the training.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        paths = {name: str(path) for name, path in folder_of.items()}
        request = TrainRequest(**paths, out=str(out), seed=seed, **{**common, **settings})
        started_s = time.monotonic()
        row: dict[str, Any] = {"settings": settings, "seed": seed}
        try:
            for event in train(request, "experiment", ("quail", "train"), Stop(), Path(folder)):
                if event.type == "training_planned":
                    row["margin"] = event.margin_logits
                elif event.type == "train_step":
                    row["satisfied"] = event.hinge_satisfied
        except QuailError as error:
            return row | {"error": error.message.split(". ")[0]}
        row["train_s"] = round(time.monotonic() - started_s, 1)
        measured = AuditRequest(
            original=request.original,
            unlearned=str(out),
            data=request.data,
            schemes=("nf4", "fp4"),
            metrics=("verbmem_forget", "verbmem_retain"),
            device="cpu",
        )
        scores: dict[str, float] = {}
        for event in audit(measured, "experiment"):
            if event.type == "metric_scored" and event.arm.startswith("unlearned/"):
                scores[f"{event.metric.removeprefix('verbmem_')} {event.arm.partition('/')[2]}"] = event.score.mean
            elif event.type == "weights_measured" and event.scheme == "nf4":
                row |= {"overlap": event.summary.overlap, "survival": event.summary.survival}
        return row | {"scores": scores}


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The rows as Markdown; several seeds of one setting as their mean and range."""
    columns = [f"{split} {precision}" for precision in ("full", "nf4", "fp4") for split in ("forget", "retain")]
    yield "| objective | hinge | margin | " + " | ".join(columns) + " | overlap | survival | s | seeds |"
    yield "|---" * (len(columns) + 7) + "|"
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(json.dumps(row["settings"], sort_keys=True), []).append(row)
    for group in grouped.values():
        settings, finished = group[0]["settings"], [row for row in group if "scores" in row]
        objective = settings["objective"] + (", capped" if "forget_loss_cap" in settings else "")
        if settings.get("hinge_weight") == 0.0:
            objective = "retain term alone"
        if "learning_rate" in settings:
            objective += f", rate {settings['learning_rate']:g}"
        if "dtype" in settings:
            objective += f", {settings['dtype']}"
        hinge = (
            f"{settings.get('hinge', 'per-logit')}, {settings.get('hinge_precision', 'full')}"
            if preset_named(settings["objective"]).hinge
            else ""
        )
        margin = "" if not hinge else f"{settings.get('margin_logits') or 'auto'}"
        if not finished:
            yield f"| {objective} | {hinge} | {margin} | {group[0]['error']} |" + " |" * (len(columns) + 3)
            continue
        cells = [spread([row["scores"][column] for row in finished]) for column in columns]
        means = [sum(row[name] for row in finished) / len(finished) for name in ("overlap", "survival", "train_s")]
        figures = f"{means[0]:.3f} | {means[1]:.3f} | {means[2]:.0f} | {len(finished)}"
        yield f"| {objective} | {hinge} | {margin} | " + " | ".join(cells) + f" | {figures} |"


def keep(row: dict[str, Any], path: Path) -> None:
    """Add a row to the file, and show it."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), file=sys.stderr, flush=True)


def spread(values: list[float]) -> str:
    mean = f"{sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", help="only settings whose JSON holds this text")
    parser.add_argument("--table", action="store_true", help="print what is in the file")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    if arguments.table:
        print("\n".join(table(rows)))
        return 0
    folder_of = {name: arguments.demo / name for name in ("original", "unlearned", "data")}
    for part in arguments.part or PARTS:
        for settings in PARTS[part]():
            if arguments.only and arguments.only not in json.dumps(settings):
                continue
            for seed in range(arguments.seeds):
                if any((row["settings"], row["seed"]) == (settings, seed) for row in rows):
                    continue
                row = train_and_audit(folder_of, settings, COMMON, seed)
                rows.append(row)
                keep(row, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Repair the demo by quail carry alone: every way, several seeds, every scheme it may be rounded to.

    python docs/experiments/demo_cures.py --demo quail-demo --out cures --rows cures.jsonl
    python docs/experiments/demo_cures.py --rows cures.jsonl --table

A checkpoint is carried for one format: OUT/WAY-SCHEME-SEED. Those carried for nf4, which erases the demo's update,
are scored at every format; the calibrated way is also carried, all layers, for each other format, so that the table
crosses the format it was carried for with the one it is rounded to. The calibrated way and error feedback have no
draws, hence no seeds. Hinge retraining is the demo's own repair. Rows that are there already are not measured again.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.forgetting.evaluate import evaluate_arm
from quail_audit.engine.forgetting.measurable import read_data
from quail_audit.engine.forgetting.models.load import load_arm
from quail_audit.engine.schemes.registry import scheme_named
from quail_audit.schema.requests import CarryRequest
from quail_train.carry.run import carry
from quail_train.demo.repair import EPOCHS, LEARNING_RATE, MAX_LENGTH

METRICS = ("verbmem_forget", "verbmem_retain")
PRECISIONS = ("full", "nf4", "fp4", "int8", "rtn-int4-g64", "rtn-int4-g128", "rtn-int3-g64")
SEEDS = range(5)
RETRAIN = {
    "objective": "repair",
    "layers": "all",
    "epochs": EPOCHS,
    "learning-rate": LEARNING_RATE,
    "max-length": MAX_LENGTH,
}


def scores(original: Path, checkpoint: Path, precision: str, data_folder: Path) -> dict[str, float]:
    pair = open_pair(str(original), str(checkpoint))
    scheme = None if precision == "full" else scheme_named(precision)
    loaded = load_arm(pair.unlearned, scheme, layers=pair.layers, device="cpu", dtype="auto")
    events = evaluate_arm("arm", loaded, read_data(str(data_folder), metrics=METRICS), METRICS, batch_size=None, seed=0)
    while True:
        try:
            next(events)
        except StopIteration as end:
            return {name: round(score.mean, 1) for name, score in end.value.means.items()}


def carry_once(demo: Path, out: Path, scheme: str, way: str, seed: int) -> float | None:
    """Carry once. Return the seconds of processor time; None if the result is there already."""
    if (out / "README.md").exists():  # the model card is written last
        return None
    request = CarryRequest(
        original=str(demo / "original"),
        unlearned=str(demo / "unlearned"),
        out=str(out),
        scheme=scheme,
        way=way,
        seed=seed,
        calibrate=str(demo / "data") if way == "calibrated" else None,
        layers=("erased",) if scheme == "nf4" else ("all",),
    )
    started = time.process_time()
    for _ in carry(request, "a-run", ()):
        pass
    return round(time.process_time() - started, 1)


def checkpoints(demo: Path, out: Path) -> Iterator[tuple[str, Path, float | None]]:
    """(name in the table, folder, seconds it took), each made when it is asked for."""
    yield "original", demo / "original", None
    yield "unlearned", demo / "unlearned", None
    made = [("calibrated", "nf4", 0), ("feedback", "nf4", 0), *(("random", "nf4", seed) for seed in SEEDS)]
    for way, scheme, seed in [*made, *(("calibrated", scheme, 0) for scheme in PRECISIONS[2:])]:
        folder = out / f"{way}-{scheme}-{seed}"
        name = f"{way} for {scheme}" + (f", seed {seed}" if way == "random" else "")
        yield name, folder, carry_once(demo, folder, scheme, way, seed)
    for seed in SEEDS:
        folder = out / f"retrained-{seed}"
        if not (folder / "README.md").exists():
            pair = str(demo / "original"), str(demo / "unlearned")
            command = [sys.executable, "-m", "quail_audit", "train", *pair, "--data", str(demo / "data")]
            settings = [part for name, value in RETRAIN.items() for part in (f"--{name}", str(value))]
            options = [*settings, "--seed", str(seed), "--out", str(folder), "--overwrite", "--quiet"]
            subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
        yield f"retrained, seed {seed}", folder, None


def show_table(rows: Path) -> None:
    found: dict[str, dict[str, str]] = {}
    for row in map(json.loads, rows.read_text().splitlines()):
        cell = f"{row['verbmem_forget']:.1f} / {row['verbmem_retain']:.1f}"
        found.setdefault(row["checkpoint"], {})[row["precision"]] = cell
    print(f"| VerbMem, forget / retain | {' | '.join(PRECISIONS)} |\n|{'---|' * (len(PRECISIONS) + 1)}")
    for name, cells in found.items():
        print(f"| {name} | {' | '.join(cells.get(precision, '') for precision in PRECISIONS)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        show_table(arguments.rows)
        return
    known = [json.loads(line) for line in arguments.rows.read_text().splitlines()] if arguments.rows.exists() else []
    measured = {(row["checkpoint"], row["precision"]) for row in known}
    for name, checkpoint, seconds in checkpoints(arguments.demo, arguments.out):
        for precision in PRECISIONS:
            if (name, precision) in measured:
                continue
            row = {"checkpoint": name, "precision": precision, "cpu_seconds": seconds}
            row |= scores(arguments.demo / "original", checkpoint, precision, arguments.demo / "data")
            with arguments.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

"""The demo repaired by quail carry, every way and several seeds, and how each result is when others round it.

    python docs/experiments/demo_cures.py --demo quail-demo --out cures --rows cures.jsonl

Writes OUT/WAY-SEED for each, and a line with VerbMem of both sets for each checkpoint and precision. Five minutes.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from quail_audit.checkpoints.pair import open_pair
from quail_audit.events import CarryRequest
from quail_audit.forgetting.arms import load_arm
from quail_audit.forgetting.data import read_data
from quail_audit.forgetting.evaluate import evaluate_arm
from quail_audit.schemes.registry import scheme_named
from quail_train.carry_run import carry

METRICS = ("verbmem_forget", "verbmem_retain")
PRECISIONS = ("full", "nf4", "fp4", "int8", "rtn-int4-g64", "rtn-int4-g128", "rtn-int3-g64")
SEEDS = range(5)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    arguments = parser.parse_args()
    original, unlearned, data = (arguments.demo / name for name in ("original", "unlearned", "data"))
    made: list[tuple[str, dict[str, object]]] = [
        ("calibrated", {"way": "calibrated", "calibrate": str(data)}),
        ("random-0", {"way": "random", "seed": 0}),
        ("feedback", {"way": "feedback"}),
        *((f"random-{seed}", {"way": "random", "seed": seed}) for seed in SEEDS if seed > 0),
    ]
    checkpoints: list[tuple[str, Path, float | None]] = [("unlearned", unlearned, None)]
    for name, settings in made:
        out = arguments.out / name
        started = time.process_time()
        request = CarryRequest(original=str(original), unlearned=str(unlearned), out=str(out), **settings)
        for _ in carry(request, "a-run", ()):
            pass
        checkpoints.append((name, out, round(time.process_time() - started, 1)))
    for name, checkpoint, seconds in checkpoints:
        for precision in PRECISIONS:
            row = {"checkpoint": name, "precision": precision, "cpu_seconds": seconds}
            row |= scores(original, checkpoint, precision, data)
            with arguments.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

"""Compare every cure on the two pairs of smollm2_cures_pairs.py, at nf4, in one table.

    python docs/experiments/smollm2_cures.py --pairs pairs --case erased --out erased.jsonl
    python docs/experiments/smollm2_cures.py --pairs pairs --case drowned --out drowned.jsonl

    python docs/experiments/smollm2_cures.py --out erased.jsonl --table

Writes PAIRS/CASE/WAY for each way of quail carry and for hinge retraining, then one line of scores for each checkpoint
and precision; lines that OUT has already are not measured again. Perplexity is that of hold-out chunks, which no model
saw. Survival and noise are means over the layers, of the update that was asked for. In the drowned case the update is
the memory itself: there a cure is good when it keeps the "forget" chunks known. A minute or two for each row.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open

from quail_audit.engine.checkpoints.pair import open_pair
from quail_audit.engine.forgetting.evaluate import evaluate_arm
from quail_audit.engine.forgetting.measurable import read_data
from quail_audit.engine.forgetting.models.language_model import TransformersModel
from quail_audit.engine.forgetting.models.load import load_arm
from quail_audit.engine.schemes.registry import scheme_named
from quail_train.carry.grid import deployed_update

METRICS = ("verbmem_forget", "verbmem_retain", "nll_forget", "nll_retain")
WAYS = {
    "random": ["--way", "random"],
    "feedback": ["--way", "feedback"],
    "calibrated on the retain set": ["--calibration", "retain.txt"],
    "calibrated on other texts": ["--calibration", "other.txt"],
}
RETRAINING = "hinge retraining"
RETRAIN = ["--objective", "repair", "--layers", "all", "--max-steps", "20", "--learning-rate", "1e-4"]
COLUMNS = {
    "verbmem_forget": "forget",
    "verbmem_retain": "retain",
    "nll_forget": "forget loss",
    "nll_retain": "retain loss",
    "perplexity_holdout": "perplexity, hold-out",
    "survival": "survival",
    "noise": "noise",
    "cpu_seconds": "CPU s",
}


def scores(original: Path, checkpoint: Path, precision: str, data_folder: Path) -> dict[str, float]:
    pair = open_pair(str(original), str(checkpoint))
    scheme = None if precision == "full" else scheme_named(precision)
    loaded = load_arm(pair.unlearned, scheme, layers=pair.layers, device="cpu", dtype="auto")
    data = read_data(str(data_folder), metrics=METRICS)
    events = evaluate_arm("arm", loaded, data, METRICS, batch_size=None, seed=0)
    while True:
        try:
            next(events)
        except StopIteration as end:
            found = {name: score.mean for name, score in end.value.means.items()}
            break
    texts = json.loads((data_folder / "privleak/holdout.json").read_text())
    model = TransformersModel(loaded.model, loaded.tokenizer)
    losses = np.concatenate([-values for _, values in model.log_probabilities(texts)])
    return found | {"perplexity_holdout": math.exp(float(losses.mean()))}


def update_kept(original: Path, unlearned: Path, checkpoint: Path) -> dict[str, float]:
    """Survival and noise of the unlearned checkpoint's update in what another becomes at nf4: means over the layers."""
    scheme, found = scheme_named("nf4"), []
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        pair = open_pair(str(original), str(unlearned))
        for layer in pair.layers:
            carried = file.get_tensor(f"{layer.name}.weight")
            found += [deployed_update(*pair.read(layer), carried, scheme)]
    kept = [(survival, noise) for survival, noise in found if survival is not None]
    return dict(zip(("survival", "noise"), np.mean(kept, axis=0).tolist(), strict=True))


def texts_of(data: Path, muse: Path, folder: Path) -> None:
    """The files that WAYS names: the retain chunks, and 48 texts that have nothing to do with them."""
    retain = json.loads((data / "privleak/retain.json").read_text())
    (folder / "retain.txt").write_text("\n".join(text.replace("\n", " ") for text in retain))
    others = json.loads((muse / "privleak/holdout.json").read_text())[-48:]
    (folder / "other.txt").write_text("\n".join(text.replace("\n", " ")[:400] for text in others))


def table(path: Path) -> None:
    print(f"| checkpoint | at | {' | '.join(COLUMNS.values())} |\n|{'---|' * (len(COLUMNS) + 2)}")
    for row in map(json.loads, path.read_text().splitlines()):
        digits = {"verbmem_forget": 1, "verbmem_retain": 1, "perplexity_holdout": 0, "cpu_seconds": 0}
        cells = ["" if row.get(name) is None else f"{row[name]:,.{digits.get(name, 2)}f}" for name in COLUMNS]
        print(f"| {row['checkpoint']} | {row['precision']} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--case", choices=["erased", "drowned"])
    parser.add_argument("--muse", type=Path, help="the evaluation data of MUSE-News, for other texts to calibrate on")
    parser.add_argument("--only", action="append", help="a checkpoint of the table; default: all")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        table(arguments.out)
        return
    folder, data = arguments.pairs / arguments.case, arguments.pairs / "data"
    original, unlearned = folder / "original", folder / "unlearned"
    pair = [str(original), str(unlearned)]
    texts_of(data, arguments.muse, folder)
    known = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    measured = {(row["checkpoint"], row["precision"]) for row in known}

    def record(name: str, checkpoint: Path, precision: str, seconds: float | None = None) -> None:
        if (name, precision) in measured:
            return
        row = {"case": arguments.case, "checkpoint": name, "precision": precision, "cpu_seconds": seconds}
        row |= scores(original, checkpoint, precision, data)
        if checkpoint != original and precision == "nf4":
            row |= update_kept(original, unlearned, checkpoint)
        with arguments.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, file=sys.stderr, flush=True)

    def make(name: str, *command: str) -> tuple[Path, float | None]:
        result = folder / name.replace(" ", "-")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        if not (result / "README.md").exists():  # the model card is written last
            subprocess.run(
                [sys.executable, "-m", "quail_audit", *command, "--out", str(result), "--overwrite"], check=True
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return result, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return result, None

    for name in arguments.only or ("original", "unlearned", *WAYS, RETRAINING):
        seconds = None
        if name in WAYS:
            options = [str(folder / part) if part.endswith(".txt") else part for part in WAYS[name]]
            which = "erased" if arguments.case == "erased" else "all"
            checkpoint, seconds = make(name, "carry", *pair, *options, "--layers", which)
        elif name == RETRAINING:
            checkpoint, seconds = make(name, "train", *pair, "--data", str(data), *RETRAIN)
        else:
            checkpoint = folder / name
        # a carried checkpoint at nf4 is what it is in full precision, weight for weight
        for precision in ("nf4",) if name in WAYS else ("full", "nf4"):
            record(name, checkpoint, precision, seconds)


if __name__ == "__main__":
    main()

"""Every cure on the two pairs that smollm2_cures_pairs.py made, at nf4: what is forgotten, what is kept, in one table.

    python docs/experiments/smollm2_cures.py --pairs pairs --case erased --out erased.jsonl
    python docs/experiments/smollm2_cures.py --pairs pairs --case drowned --out drowned.jsonl

Writes PAIRS/CASE/WAY for each way of quail carry, and for the hinge retraining where it is there already (--retrained),
then one line of scores for each checkpoint and precision. Perplexity is that of hold-out chunks, which no model saw.
In the drowned case the update is the memory itself: there a cure is good when it keeps the "forget" chunks known.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from quail_audit.checkpoints.pair import open_pair
from quail_audit.forgetting.arms import load_arm
from quail_audit.forgetting.data import read_data
from quail_audit.forgetting.evaluate import evaluate_arm
from quail_audit.forgetting.language_model import TransformersModel
from quail_audit.schemes.registry import scheme_named

METRICS = ("verbmem_forget", "verbmem_retain", "nll_forget", "nll_retain")
WAYS = {
    "random": ["--way", "random"],
    "feedback": ["--way", "feedback"],
    "calibrated on the retain set": ["--calibrate", "retain.txt"],
    "calibrated on other texts": ["--calibrate", "other.txt"],
}


def scores(pair_of: tuple[Path, Path], precision: str, data_folder: Path, metrics: tuple[str, ...]) -> dict[str, float]:
    """The second checkpoint's."""
    pair = open_pair(str(pair_of[0]), str(pair_of[1]))
    scheme = None if precision == "full" else scheme_named(precision)
    loaded = load_arm(pair.unlearned, scheme, layers=pair.layers, device="cpu", dtype="auto")
    data = read_data(str(data_folder), metrics=metrics)
    events = evaluate_arm("arm", loaded, data, metrics, batch_size=None, seed=0)
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


def texts_of(data: Path, muse: Path | None, folder: Path) -> None:
    """The files that WAYS names: the retain chunks, and 48 texts that have nothing to do with them."""
    retain = json.loads((data / "privleak/retain.json").read_text())
    (folder / "retain.txt").write_text("\n".join(text.replace("\n", " ") for text in retain))
    if muse is not None:
        others = json.loads((muse / "privleak/holdout.json").read_text())[-48:]
        (folder / "other.txt").write_text("\n".join(text.replace("\n", " ")[:400] for text in others))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--case", choices=["erased", "drowned"], required=True)
    parser.add_argument("--muse", type=Path, help="the evaluation data of MUSE-News, for other texts to calibrate on")
    parser.add_argument("--retrained", type=Path, help="a checkpoint that quail train made of the pair")
    parser.add_argument("--metric", action="append", choices=METRICS, help="default: all; those of NLL are quick")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    folder, data = arguments.pairs / arguments.case, arguments.pairs / "data"
    original, unlearned = folder / "original", folder / "unlearned"
    texts_of(data, arguments.muse, folder)
    layers = ["--layers", "erased" if arguments.case == "erased" else "all"]

    def record(name: str, checkpoint: Path, precision: str, seconds: float | None = None) -> None:
        row = {"case": arguments.case, "checkpoint": name, "precision": precision, "seconds": seconds}
        row |= scores((original, checkpoint), precision, data, tuple(arguments.metric or METRICS))
        with arguments.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, file=sys.stderr, flush=True)

    for name, checkpoint in (("original", original), ("unlearned", unlearned)):
        for precision in ("full", "nf4"):
            record(name, checkpoint, precision)
    for name, options in WAYS.items():
        if options[0] == "--calibrate":
            options = ["--calibrate", str(folder / options[1])]
            if not Path(options[1]).exists():
                continue
        result = folder / name.replace(" ", "-")
        command = [sys.executable, "-m", "quail_audit", "carry", str(original), str(unlearned), "--out", str(result)]
        started = time.monotonic()
        subprocess.run([*command, *layers, *options, "--overwrite"], check=True)
        record(name, result, "nf4", round(time.monotonic() - started, 1))
    if arguments.retrained is not None:
        for precision in ("full", "nf4"):
            record("hinge retraining", arguments.retrained, precision)


if __name__ == "__main__":
    main()

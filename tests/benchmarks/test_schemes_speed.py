"""What several schemes cost beside one: whole audits of weights, with the files in memory and without.

Prints figures and asserts none of them. Run: make bench.
"""

import os
import time
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from quail_audit.engine.audit.run import audit
from quail_audit.schema.requests import AuditRequest

pytestmark = pytest.mark.slow

WAYS = {
    "nf4": ("nf4",),
    "rtn-int4-g128": ("rtn-int4-g128",),
    "gguf-q4_0": ("gguf-q4_0",),
    "int8": ("int8",),
    "all four": ("nf4", "rtn-int4-g128", "gguf-q4_0", "int8"),
}
ROUNDS = 6
CASES = [(torch.float32, 1.0), (torch.bfloat16, 1.0), (torch.bfloat16, 0.02)]


def made_pair(folder: Path, dtype: torch.dtype, share: float) -> list[Path]:
    """original and unlearned: 218 M weights in 28 layers, a share of them moved. Returns their weight files."""
    config = LlamaConfig(
        hidden_size=2048, num_hidden_layers=4, num_attention_heads=16, intermediate_size=6144, vocab_size=64
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(dtype)
    model.save_pretrained(folder / "original")
    with torch.no_grad():
        for weight in model.parameters():
            weight += (torch.randn(weight.shape) * 1e-3 * (torch.rand(weight.shape) < share)).to(dtype)
    model.save_pretrained(folder / "unlearned")
    return sorted(folder.glob("*/*.safetensors"))


def forget(files: list[Path]) -> None:
    """Take files out of memory, so that they are read from disk again."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize(("dtype", "share"), CASES, ids=str)
def test_several_schemes_beside_one(
    dtype: torch.dtype, share: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = made_pair(tmp_path, dtype, share)
    best: dict[tuple[str, str], float] = {}
    for round_ in range(ROUNDS):
        for way, schemes in WAYS.items():
            request = AuditRequest(
                original=str(tmp_path / "original"),
                unlearned=str(tmp_path / "unlearned"),
                schemes=schemes,
                device="cpu",
            )
            for where in ("from memory", "from disk"):
                if where == "from disk":
                    forget(files)
                started_s, started_cpu_s = time.perf_counter(), time.process_time()
                for _ in audit(request, "run"):
                    pass
                taken = {
                    f"{where}, by the clock": time.perf_counter() - started_s,
                    f"{where}, processor time": time.process_time() - started_cpu_s,
                }
                for what, taken_s in taken.items() if round_ > 0 else ():  # the first compiles
                    best[what, way] = min(best.get((what, way), float("inf")), taken_s)
    with capsys.disabled():
        print(f"\n\n{dtype}, {share:.0%} changed; seconds, best of {ROUNDS - 1}, and beside nf4 alone:")
        for what in dict.fromkeys(what for what, _ in best):
            row = [f"{way} {best[what, way]:.2f} ({best[what, way] / best[what, 'nf4']:.2f} x)" for way in WAYS]
            print(f"{what:30}{'   '.join(row)}")

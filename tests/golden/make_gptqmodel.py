"""Makes the GPTQModel checkpoints of this folder, or those that are named. Run where GPTQModel 7.7.0 is installed.

Each is a Llama of one block with random weights, quantized for real on a CPU. expected.safetensors beside it holds what
GPTQModel's own modules say that its weights are, [outputs, inputs], in the type that the module computes them in.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # it stops on a machine of two cores otherwise

import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from safetensors.torch import save_file
from tiny_checkpoint import calibration, save

HERE = Path(__file__).parent
KINDS = {
    "gptq-int2-g32": {"bits": 2, "group_size": 32},
    "gptq-int3-g32": {"bits": 3, "group_size": 32},
    "gptq-int4-g32": {"bits": 4, "group_size": 32},
    "gptq-int4-g128-asym-v2": {"bits": 4, "group_size": 128, "sym": False, "format": "gptq_v2"},
    "gptq-int4-g32-desc_act": {"bits": 4, "group_size": 32, "desc_act": True},
    "gptq-int8-g32": {"bits": 8, "group_size": 32},
    "awq-int4-g64": {"bits": 4, "group_size": 64, "method": "awq", "format": "gemm"},
}
KEPT = ("config.json", "model.safetensors")


def make(name: str, settings: dict[str, object], work: Path) -> None:
    source, made, golden = work / "source", work / name, HERE / name
    save(source, hidden=64 if name.startswith("awq") else 32)
    model = GPTQModel.load(str(source), QuantizeConfig(**settings), dtype=torch.float16)
    model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in calibration()], batch_size=1)
    model.save(str(made))
    shutil.rmtree(golden, ignore_errors=True)
    golden.mkdir()
    for file in KEPT:
        shutil.copy(made / file, golden / file)
    kind = BACKEND.TORCH_AWQ if name.startswith("awq") else BACKEND.TORCH
    loaded = GPTQModel.load(str(made), backend=kind, device="cpu", dtype=torch.float16)
    expected = {
        name: dequantized(module).T.contiguous()
        for name, module in loaded.model.named_modules()
        if name.endswith(("q_proj", "down_proj"))
    }
    save_file(expected, golden / "expected.safetensors")


def dequantized(module: Any) -> torch.Tensor:
    """[inputs, outputs], by the module's own code."""
    if hasattr(module, "dequantize_weight"):
        return module.dequantize_weight()
    return module._dequantize_weight_for_inference(torch.zeros(1, dtype=torch.float16), dtype=torch.float16)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)  # it writes logs where it runs
        for name, settings in KINDS.items():
            if sys.argv[1:] and name not in sys.argv[1:]:
                continue
            make(name, settings, Path(work))

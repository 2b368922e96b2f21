"""Makes the auto-gptq checkpoints of this folder. Run where auto-gptq 0.7.1 and transformers 4.47.1 are installed.

Its from_pretrained wants CUDA and its quantizer ends with a CUDA synchronize: both are put aside here, as nothing else
of it needs a GPU. See make_gptqmodel.py for what is kept.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import auto_gptq.modeling._base as base
import torch
from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig
from safetensors.torch import save_file
from tiny_checkpoint import calibration, save

HERE = Path(__file__).parent
KINDS = {
    "auto-gptq-int4-g32": {"bits": 4, "group_size": 32},
    "auto-gptq-int4-g32-desc_act-asym": {"bits": 4, "group_size": 32, "desc_act": True, "sym": False},
}


def make(name: str, settings: dict[str, Any], work: Path) -> None:
    source, made, golden = work / "source", work / name, HERE / name
    save(source, hidden=32)
    model = AutoGPTQForCausalLM.from_pretrained(
        str(source), BaseQuantizeConfig(damp_percent=0.01, **settings), torch_dtype=torch.float32
    )
    examples = [{"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))} for ids in calibration()]
    model.quantize(examples, cache_examples_on_gpu=False)
    model.save_quantized(str(made), use_safetensors=True)
    shutil.rmtree(golden, ignore_errors=True)
    golden.mkdir()
    for file in made.glob("*.safetensors"):
        shutil.copy(file, golden / file.name)
    shutil.copy(made / "config.json", golden / "config.json")
    expected = {
        name: module(torch.eye(module.infeatures)).T.contiguous()  # its bias is zero
        for name, module in model.model.named_modules()
        if name.endswith(("q_proj", "down_proj"))
    }
    save_file(expected, golden / "expected.safetensors")


if __name__ == "__main__":
    torch.cuda.synchronize = lambda *_: None
    torch.cuda.is_available = lambda: True
    base.CUDA_0 = torch.device("cpu")
    with tempfile.TemporaryDirectory() as work:
        for name, settings in KINDS.items():
            make(name, settings, Path(work))

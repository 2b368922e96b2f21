"""A backend that rounds to nearest and writes GPTQ's first format, for engine/audit/test_calibrated.py."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from quail_audit.engine.schemes.backends.messages import Job
from quail_audit.engine.schemes.backends.worker import MessageWriter
from tests.support.slow_packers import gptq_parts

LEFT = "model.layers.1.mlp.down_proj"


class Library:
    def round(self, layer: str, weight: torch.Tensor, group: int) -> dict[str, torch.Tensor]:
        groups = weight.reshape(weight.shape[0], -1, group)
        scales = (groups.abs().amax(-1, keepdim=True) / 7).half()
        codes = (groups / scales.float()).round().clamp(-8, 7).long().reshape(weight.shape) + 8
        by_group = scales.squeeze(-1).T.contiguous()
        zeros = [[8] * weight.shape[0]] * by_group.shape[0]
        index = [column // group for column in range(weight.shape[1])]
        return gptq_parts(codes.tolist(), zeros, by_group, index, 4, version=1)


def quantize(job: Job, report: MessageWriter) -> None:
    Library.round = report.watch(Library.round, lambda _self, layer, *_: layer)
    tensors = load_file(Path(job.model) / "model.safetensors")
    made = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if ".layers." not in name or tensor.dim() != 2 or module == LEFT:
            made[name] = tensor
            continue
        parts = Library().round(module, tensor, job.group_size)
        made |= {f"{module}.{part}": value.contiguous() for part, value in parts.items()}
    folder = Path(job.folder)
    folder.mkdir()
    save_file(made, folder / "model.safetensors")
    config = json.loads((Path(job.model) / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": job.group_size}
    (folder / "config.json").write_text(json.dumps(config))

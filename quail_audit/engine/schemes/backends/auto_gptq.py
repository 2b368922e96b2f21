"""Quantize a checkpoint with auto-gptq 0.7.1, which needs CUDA, in the worker's process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quail_audit.engine.schemes.backends.messages import Job
from quail_audit.engine.schemes.backends.worker import MessageWriter


def quantize(job: Job, report: MessageWriter) -> None:
    """Do the job; see Job. Rename auto-gptq's gptq_model-…safetensors to the name that every reader looks for."""
    import torch
    from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig
    from auto_gptq.quantization.gptq import GPTQ

    torch.manual_seed(job.seed)
    config = BaseQuantizeConfig(bits=job.bits, group_size=job.group_size, desc_act=job.desc_act, damp_percent=0.01)
    model = AutoGPTQForCausalLM.from_pretrained(
        job.model, config, torch_dtype=getattr(torch, job.dtype), local_files_only=True
    )
    names = {id(module): name for name, module in model.model.named_modules()}
    GPTQ.fasterquant = report.watch(GPTQ.fasterquant, lambda gptq, **_: names[id(gptq.layer)])
    rows: list[dict[str, Any]] = [
        {"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.long)}
        for row in job.rows
    ]
    model.quantize(rows, cache_examples_on_gpu=False)
    model.save_quantized(job.folder, use_safetensors=True)
    (written,) = Path(job.folder).glob("*.safetensors")
    written.rename(written.with_name("model.safetensors"))

"""Quantize a checkpoint with GPTQModel 7.7, by GPTQ or AWQ, in the worker's process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from quail_audit.engine.schemes.backends.awq_scales import save_scales
from quail_audit.engine.schemes.backends.messages import Job, RoundedToNearest
from quail_audit.engine.schemes.backends.worker import MessageWriter

LEAST_WORKERS = 2  # on a machine of two cores it leaves itself one, and stops because it wants two


def quantize(job: Job, report: MessageWriter) -> None:
    """Do the job; see Job. Rounding is symmetric, and otherwise as GPTQModel's own defaults have it.

    The rest of the model keeps the checkpoint's dtype, but for AWQ of a float32 checkpoint: GPTQModel's modules for AWQ
    know half precision only, so there the whole model becomes bfloat16, as it is by default.
    """
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(LEAST_WORKERS, os.cpu_count() or LEAST_WORKERS)))
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig
    from gptqmodel.looper import awq_processor
    from gptqmodel.looper.awq_processor import AWQProcessor
    from gptqmodel.looper.gptq_processor import GPTQProcessor
    from gptqmodel.quantization.gptq import GPTQ

    torch.manual_seed(job.seed)
    AWQProcessor.process = report.watch(AWQProcessor.process, _name_of)
    GPTQProcessor.process = report.watch(GPTQProcessor.process, _name_of)
    GPTQ._fallback_quantize = _report_nearest(GPTQ._fallback_quantize, report)
    GPTQ.hessian_inverse = _refuse_no_inverse(GPTQ.hessian_inverse)
    GPTQ.mock_hessian_inverse = _refuse_identity
    config = QuantizeConfig(
        bits=job.bits,
        group_size=job.group_size,
        desc_act=job.desc_act,
        sym=True,
        method=job.method,
        format="gemm" if job.method == "awq" else "gptq",
        pack_impl="original",  # the others compile something first
        offload_to_disk_path=str(Path.cwd() / "offload"),
        device=job.device,
    )
    dtype = "bfloat16" if job.method == "awq" and job.dtype == "float32" else job.dtype
    model = GPTQModel.load(job.model, config, dtype=getattr(torch, dtype))
    rows: list[dict[str, Any]] = [{"input_ids": list(row), "attention_mask": [1] * len(row)} for row in job.rows]
    columns: dict[str, Any] = {}
    row_scales: dict[str, Any] = {}
    awq_processor.apply_scale = _keep_scales(awq_processor.apply_scale, report, columns, row_scales)
    model.quantize(rows, batch_size=1)
    model.save(job.folder)
    if columns:
        save_scales(Path(job.folder), columns, row_scales)


def _keep_scales(plain: Any, report: MessageWriter, columns: dict[str, Any], rows: dict[str, Any]) -> Any:
    """Wrap GPTQModel's apply_scale so that it keeps its scales by the whole names of the modules."""

    def remembering(block: Any, scales_list: Any, *args: Any, **kwargs: Any) -> Any:
        import torch

        inner = max((name for name, _ in block.named_modules() if name and report.layer.endswith(f".{name}")), key=len)
        prefix = report.layer.removesuffix(inner)
        for previous, layers, scales, *_ in scales_list:
            for name in layers:
                columns[prefix + name] = scales.float()
            before = block.get_submodule(previous)
            if isinstance(before, torch.nn.Linear):  # its last rows are divided, which are not all if it is fused
                divided = torch.ones(before.weight.shape[0])
                divided[-scales.numel() :] = scales.float().cpu().flatten()
                rows[prefix + previous] = divided
        return plain(block, scales_list, *args, **kwargs)

    return remembering


def _name_of(_processor: object, module: Any, **_: object) -> str:
    name: str = module.full_name
    return name


def _report_nearest(plain: Any, report: MessageWriter) -> Any:
    def reporting(this: Any, *args: Any, **kwargs: Any) -> Any:
        report(RoundedToNearest(name=report.layer))
        return plain(this, *args, **kwargs)

    return reporting


def _refuse_no_inverse(plain: Any) -> Any:
    """Wrap the inverse so that none is an error: GPTQModel would go on without compensating, which is no GPTQ."""

    def refusing(this: Any, hessian: Any) -> Any:
        from torch.linalg import LinAlgError  # type: ignore[attr-defined]

        inverse, damp = plain(this, hessian)
        if inverse is None:
            raise LinAlgError("not positive definite, however much it is damped")
        return inverse, damp

    return refusing


def _refuse_identity(*_: object) -> None:
    """Refuse the identity, which GPTQModel tries after the true inverse gave weights that are no numbers."""
    from torch.linalg import LinAlgError  # type: ignore[attr-defined]

    raise LinAlgError("compensating with its inverse gives weights that are not finite")

"""Quail's own driver of auto-gptq, with what demands CUDA put aside: nothing else of the library needs a GPU."""

from quail_audit.engine.schemes.backends.auto_gptq import quantize as real
from quail_audit.engine.schemes.backends.messages import Job
from quail_audit.engine.schemes.backends.worker import MessageWriter


def quantize(job: Job, report: MessageWriter) -> None:
    import auto_gptq.modeling._base as base
    import torch

    torch.cuda.synchronize = lambda *_: None
    torch.cuda.is_available = lambda: True
    base.CUDA_0 = torch.device("cpu")
    real(job, report)

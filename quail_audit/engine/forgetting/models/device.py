"""Choose the device and the dtype that a model runs on."""

from __future__ import annotations

import torch

from quail_audit.core.errors import EnvironmentProblemError, UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(device: str) -> torch.device:
    """Return the device of a --device option.

    Raises:
        UsageError: no such kind of device.
        EnvironmentProblemError: this machine lacks the device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"unknown device {device!r}", where="--device", mend="Give auto, cpu, cuda, cuda:N or mps")
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = found.index if found.index is not None else 0
        if index >= count:
            has = f"{count} CUDA device{'s' if count > 1 else ''}" if count else "no CUDA device"
            raise EnvironmentProblemError(
                f"no such device {device!r}: torch sees {has}", where="--device", mend="Give --device cpu, or auto"
            )
        return torch.device("cuda", index)
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise EnvironmentProblemError(
            "no such device 'mps': torch sees no Apple GPU", where="--device", mend="Give --device cpu, or auto"
        )
    return found


def find_dtype(dtype: str) -> torch.dtype | None:
    """Return the dtype of a --dtype option; None for auto.

    Raises:
        UsageError: no such dtype.
    """
    if dtype == "auto":
        return None
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}", where="--dtype", mend=f"Give auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]

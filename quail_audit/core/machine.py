"""What this machine is and has: for a run's record and for `quail doctor`. Versions are read without importing."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import quail_audit

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "bitsandbytes",
    "safetensors",
    "numba",
    "numpy",
    "rouge-score",
    "scikit-learn",
    "scipy",
)


def package_version(distribution: str) -> str | None:
    """The installed version, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def usable_cores() -> int:
    """Cores that this process may run on, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_environment() -> dict[str, str]:
    """What a reader of a report must know to repeat it, without the machine's name or its user's."""
    described = {
        "quail-audit": quail_audit.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(usable_cores()),
    }
    return described | {name: found for name in PACKAGES if (found := package_version(name)) is not None}

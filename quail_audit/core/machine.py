"""Describe this machine and its packages, without importing them."""

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
    """Return a package's installed version; None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def usable_cores() -> int:
    """Return how many cores this process may use; in a container, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_environment() -> dict[str, str]:
    """Return what a reader needs to repeat a run; no names of the machine or its user."""
    described = {
        "quail-audit": quail_audit.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(usable_cores()),
    }
    return described | {name: found for name in PACKAGES if (found := package_version(name)) is not None}

"""Show what this machine can run, and how to install the rest: doctor and schemes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

import quail_audit
from quail_audit.cli.app import command
from quail_audit.core.errors import EXIT_ENVIRONMENT
from quail_audit.core.machine import package_version, usable_cores
from quail_audit.core.untrusted import printable
from quail_audit.reports.text.console import new_console

if TYPE_CHECKING:
    from rich.console import Console


OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Diagnosis:
    """One package or device that Quail runs with.

    Attributes:
        name: of the package or device.
        found: its version or description; empty if it is missing.
        purpose: what it is for, or what it lacks.
        mend: the command that installs it; empty if it is found or nothing can be installed.
        needed: whether an audit is impossible without it.
    """

    name: str
    found: str
    purpose: str
    mend: str = ""
    needed: bool = False


# Distribution, what it is for. All of them come with quail-audit, so a missing one means a broken installation.
_NEEDED_PACKAGES = (
    ("torch", "tensors, models"),
    ("transformers", "loads and runs models"),
    ("bitsandbytes", "nf4, fp4: the deployed kernels, double quantization"),
    ("gguf", "the formats of llama.cpp"),
    ("numba", "the statistics over weights, on a CPU"),
    ("safetensors", "reads weights"),
    ("accelerate", "loads quantized models"),
    ("sentencepiece", "tokenizers of the Llama 1 and 2 family"),
    ("protobuf", "the same: what their tokenizer.model is written in"),
    ("peft", "LoRA adapters as the unlearned side"),
    ("huggingface_hub", "checkpoints named by a Hugging Face id"),
    ("rouge-score", "VerbMem, KnowMem"),
    ("scikit-learn", "PrivLeak"),
    ("scipy", "intervals"),
)
# Distribution, what it is for, extra. A missing one is no fault: no environment can hold both backends.
_EXTRAS = (
    ("gptqmodel", "GPTQ and AWQ", "gptq"),
    ("auto-gptq", "GPTQ, on CUDA, where GPTQModel cannot be had", "auto-gptq"),
    ("matplotlib", "quail report --figures", "figures"),
    ("pyarrow", "data in Parquet", "parquet"),
    ("cryptography", "quail sign, quail verify --public-key", "sign"),
)


def examine() -> list[Diagnosis]:
    """Look at Python, the packages and the devices. Imports torch, which alone knows the devices."""
    return [_python(), *_packages(), *_devices()]


def _python() -> Diagnosis:
    running = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Diagnosis("python", "", f"{running} is too old", "install Python 3.11 or newer", needed=True)
    return Diagnosis("python", running, f"quail-audit {quail_audit.__version__}", needed=True)


def _packages() -> list[Diagnosis]:
    findings = []
    for name, purpose in _NEEDED_PACKAGES:
        found = package_version(name) or ""
        mend = "" if found else f"pip install {name}"
        findings.append(Diagnosis(name, found, purpose, mend, needed=True))
    for name, purpose, extra in _EXTRAS:
        found = package_version(name) or ""
        findings.append(Diagnosis(name, found, purpose, "" if found else f"pip install 'quail-audit[{extra}]'"))
    return findings


def _devices() -> list[Diagnosis]:
    try:
        import torch
    except ImportError:
        return []
    cores = usable_cores()
    vectors = torch.backends.cpu.get_cpu_capability()
    findings = [Diagnosis("cpu", f"{cores} cores, {vectors}", "every scheme; rounded arms run on dequantized weights")]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            memory_gib = properties.total_memory / 2**30
            description = f"{printable(properties.name)}, {memory_gib:.0f} GiB"
            findings.append(Diagnosis(f"cuda:{index}", description, "every scheme, with bitsandbytes' own kernels"))
    elif torch.version.cuda is None:
        findings.append(Diagnosis("cuda", "", "this torch was built without CUDA", "pip install a CUDA build of torch"))
    else:
        findings.append(Diagnosis("cuda", "", "torch has CUDA, but no GPU or driver was found"))
    if torch.backends.mps.is_available():
        findings.append(Diagnosis("mps", "Apple GPU", "rounded arms run on dequantized weights"))
    return findings


def show(findings: list[Diagnosis], console: Console) -> None:
    """Print the findings, one a line, with the commands that install what is missing."""
    table = Table(box=None, pad_edge=True)
    for column in ("", "what", "found", "for", "to install"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        mark, style = ("✓", "green") if finding.found else ("✗", "bold red") if finding.needed else ("-", "dim")
        table.add_row(
            Text(mark, style=style),
            finding.name,
            finding.found or Text("missing" if finding.needed else "none", style=style),
            finding.purpose,
            finding.mend,
        )
    console.print(table)
    missing = [finding for finding in findings if finding.needed and not finding.found]
    if missing:
        console.print(Text(" Not ready: install what is missing with the commands above.", style="bold red"))
    else:
        console.print(Text(" Ready. Next: quail demo", style="bold"))


def show_schemes(console: Console) -> int:
    """Print every scheme with its stored bits and where it runs; return the exit code."""
    from quail_audit.engine.schemes import calibrated, rtn
    from quail_audit.engine.schemes.registry import listed_schemes

    table = Table(box=None, pad_edge=True)
    table.add_column("scheme", no_wrap=True)
    table.add_column("bits / weight", justify="right")
    table.add_column("block", justify="right")
    table.add_column("what it is", overflow="fold")
    for scheme in listed_schemes():
        what = Text(printable(scheme.title))
        if lacking := printable(scheme.install_command()):
            what.append(f"\nnot on this machine yet: {lacking}", style="bold red")
        table.add_row(printable(scheme.name), f"{scheme.bits_per_weight:.3g}", printable(scheme.block), what)
    console.print(table)
    console.print(Text(f" Others by name: {rtn.GRAMMAR}, {calibrated.GRAMMAR}", style="dim"))
    console.print(
        Text(" Name one with quail audit --scheme NAME; repeat the option for several, or say all.", style="dim")
    )
    return 0


@command()
def schemes() -> int:
    """List the quantization schemes, and whether this machine can run them."""
    return show_schemes(new_console(sys.stdout))


@command()
def doctor() -> int:
    """Show what this machine can run, which versions it has, and what to install for the rest."""
    findings = examine()
    show(findings, new_console(sys.stdout))
    return EXIT_ENVIRONMENT if any(finding.needed and not finding.found for finding in findings) else 0

"""Describe the schemes that are calibrated on texts: GPTQ and AWQ.

Their backends are libraries that quantize whole checkpoints. A calibrated scheme rounds no matrix by itself: a backend
writes a checkpoint in its own format, and codes, scales and zeros are read back from there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from quail_audit.core.errors import EnvironmentProblemError

GRAMMAR = "gptq-int{2,3,4,8}-g{32,64,128}[-desc_act], awq-int4-g128"
_NAME = re.compile(r"gptq-int([2348])-g(32|64|128)(-desc_act)?")
_SHOWN = ("gptq-int2-g128", "gptq-int3-g128", "gptq-int4-g128", "gptq-int4-g128-desc_act", "gptq-int8-g128")
EXTRA = "'quail-audit[gptq]'"
AWQ = "awq-int4-g128"
SCALE_BITS = 16  # a float16 for every group


@dataclass(frozen=True)
class CalibratedScheme:
    """A way to round a checkpoint, named as on the command line.

    Attributes:
        name: "gptq-int4-g128".
        method: the algorithm.
        bits: bits of a code.
        group_size: how many weights of a row share a scale.
        desc_act: whether columns are rounded by falling activation, and groups follow that order.
    """

    name: str
    method: Literal["gptq", "awq"]
    bits: int
    group_size: int
    desc_act: bool = False

    @property
    def title(self) -> str:
        """One line for `quail schemes`."""
        order = ", columns by falling activation" if self.desc_act else ""
        return f"{self.method.upper()} calibrated on texts, groups of {self.group_size}{order}"

    @property
    def bits_per_weight(self) -> float:
        """Stored bits a weight, scales and zero points included."""
        return self.bits + (SCALE_BITS + self.bits) / self.group_size

    @property
    def block(self) -> str:
        """The weights that share a scale, in words."""
        return str(self.group_size)

    @property
    def levels(self) -> int:
        """Number of codes."""
        return 1 << self.bits

    def install_command(self) -> str:
        """Return the command that installs what this machine lacks to run the scheme; empty if it lacks nothing."""
        drives_it = find_spec("gptqmodel") or (self.method == "gptq" and find_spec("auto_gptq"))
        return "" if drives_it else f"pip install {EXTRA}"

    def backend(self, device: str) -> str:
        """Return the module that drives the library to use: GPTQModel if it is installed, else auto-gptq.

        Args:
            device: device of the models: "cpu", "cuda:0".

        Raises:
            EnvironmentProblemError: the library wants another device.
        """
        if find_spec("gptqmodel") is not None:
            return "quail_audit.engine.schemes.backends.gptqmodel"
        if not device.startswith("cuda"):
            raise EnvironmentProblemError(
                "auto-gptq, which is installed, quantizes on CUDA only",
                where=self.name,
                mend=f"Give --device cuda, or, in another environment, pip install {EXTRA}",
            )
        return "quail_audit.engine.schemes.backends.auto_gptq"


def scheme_of(name: str) -> CalibratedScheme | None:
    """Return the calibrated scheme of this name; None if there is none."""
    if name == AWQ:
        return CalibratedScheme(name, "awq", bits=4, group_size=128)
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return CalibratedScheme(name, "gptq", int(found[1]), int(found[2]), desc_act=found[3] is not None)


def schemes() -> tuple[CalibratedScheme, ...]:
    """Return the schemes that lists show; the grammar names more."""
    return tuple(scheme for name in (*_SHOWN, AWQ) if (scheme := scheme_of(name)) is not None)

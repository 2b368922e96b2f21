"""Define a backend's job and the messages that it sends: plain values that cross a process."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Job(_Message):
    """Quantize a checkpoint.

    Attributes:
        backend: the module that does it: "quail_audit.engine.schemes.backends.gptqmodel".
        model: a folder with config.json, safetensors and a tokenizer.
        folder: the folder to make, in the backend's own format.
        rows: token ids to calibrate on, one list a sample.
        method, bits, group_size, desc_act: the scheme.
        dtype: the checkpoint's own: "bfloat16".
        device: "cpu", "cuda:0".
        seed: random seed for everything.
    """

    backend: str
    model: str
    folder: str
    rows: tuple[tuple[int, ...], ...]
    method: Literal["gptq", "awq"]
    bits: int
    group_size: int
    desc_act: bool
    dtype: str
    device: str
    seed: int


class LayerStarted(_Message):
    """The backend starts a layer, or a block if it rounds all of it at once."""

    type: Literal["layer"] = "layer"
    name: str


class RoundedToNearest(_Message):
    """The backend did without calibration for a layer, because too little of it reached that layer."""

    type: Literal["nearest"] = "nearest"
    name: str


class Failed(_Message):
    """The backend gave up. layer: the layer it was at, empty before the first."""

    type: Literal["failed"] = "failed"
    layer: str
    message: str
    hessian: bool = False  # the layer's inputs give no usable Hessian


class Done(_Message):
    type: Literal["done"] = "done"


Message = LayerStarted | RoundedToNearest | Failed | Done
MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])

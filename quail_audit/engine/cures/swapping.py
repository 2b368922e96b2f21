"""Round layers of a loaded model and put them back, in place.

There is never a second copy of its weights. The original weights of a layer are read from the checkpoint again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from quail_audit.engine.forgetting.models.language_model import TransformersModel
from quail_audit.engine.schemes.registry import scheme_named

if TYPE_CHECKING:
    from quail_audit.engine.checkpoints.pair import Layer, Pair
    from quail_audit.engine.forgetting.models.load import LoadedArm
    from quail_audit.engine.schemes.interface import Scheme

EIGHT_BITS = "rtn-int8-channel"  # what a layer in 8 bits is taken to be

F64 = npt.NDArray[np.float64]


class SwappedModel:
    """The unlearned model with some of its layers rounded.

    Args:
        pair: the pair, whose unlearned side the model is.
        loaded: the model, in full precision.
        scheme: how layers are rounded.
        texts: the texts whose loss is measured.
        batch_size: rows at once; None: by the free memory.

    Attributes:
        passes: number of passes over the texts so far.
    """

    def __init__(
        self, pair: Pair, loaded: LoadedArm, scheme: Scheme, texts: Sequence[str], *, batch_size: int | None
    ) -> None:
        self._pair = pair
        self._loaded = loaded
        self._scheme, self._eight_bits = scheme, scheme_named(EIGHT_BITS)
        self._texts = texts
        self._batch_size = batch_size
        self._layers = {layer.name: layer for layer in pair.layers}
        self._schemes: dict[str, Scheme] = {}  # layer -> how it is rounded now; absent: not at all
        self.passes = 0

    def measure_losses(self, rounded: Collection[str], *, in_8_bits: Collection[str] = ()) -> F64:
        """Return each text's mean token loss in nats: [texts].

        Args:
            rounded: layers to round as the scheme does it.
            in_8_bits: layers to round to 8 bits; all others stay in full precision.
        """
        wanted = dict.fromkeys(rounded, self._scheme) | dict.fromkeys(in_8_bits, self._eight_bits)
        for name, layer in self._layers.items():
            if wanted.get(name) is not self._schemes.get(name):
                self._put_layer(layer, wanted.get(name))
        self._schemes = wanted
        # a new one each time: it remembers what it has read
        model = TransformersModel(self._loaded.model, self._loaded.tokenizer, batch_size=self._batch_size)
        found = np.zeros(len(self._texts))
        for index, log_probabilities in model.log_probabilities(self._texts):
            found[index] = -log_probabilities.mean(dtype=np.float64) if log_probabilities.size else 0.0
        self.passes += 1
        return found

    def _put_layer(self, layer: Layer, scheme: Scheme | None) -> None:
        _, weight = self._pair.read(layer)
        values = weight if scheme is None else scheme.deployed_weights(weight)
        model = self._loaded.model
        if layer.part is not None:
            target: object = layer.part.of(model.get_parameter(layer.part.parameter))
        else:
            target = model.get_submodule(layer.name).weight
        assert isinstance(target, torch.Tensor)  # noqa: S101 - it was found in the checkpoint under this name
        with torch.no_grad():  # no layer that a scheme rounds is tied to another weight
            target.copy_(values.T if layer.transposed else values)

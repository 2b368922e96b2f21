"""The frozen original, as the loss asks it: by running it, running it in 4 bits, or from logits computed beforehand.

Precomputed, each token keeps its largest logits, the true token's, and the log-sum-exp; the rest of the vocabulary
shares the probability that is left evenly. That is exact for log p(token), and an approximation elsewhere whose error
is measured and said. The original then needs no memory while training.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from quail_audit.core.errors import EnvironmentProblemError
from quail_audit.core.writing import write_error
from quail_audit.engine.forgetting.models.classifier import padding_id
from quail_audit.engine.forgetting.models.device import find_dtype
from quail_audit.engine.forgetting.models.load import load_arm
from quail_audit.engine.schemes.registry import scheme_named
from quail_train.data.batches import collate, logits_of
from quail_train.data.samples import TrainingSample
from quail_train.objectives.terms import predictions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from quail_audit.engine.checkpoints.pair import Pair
    from quail_audit.schema.requests import TrainRequest

# Some rows of a batch of collate() -> logits [rows, length, vocabulary], or a classifier's [rows, classes]
Original = Callable[[Mapping[str, torch.Tensor], slice], torch.Tensor]
FOUR_BITS = "nf4"
FOLDER = "original-logits"


def load_original(
    pair: Pair, request: TrainRequest, device: torch.device, samples: Sequence[TrainingSample], folder: Path
) -> tuple[Original, str]:
    """The original as request.reference says, and what the reader of the run should know of it; empty where nothing.

    Args:
        pair: whose original.
        request: how.
        device: where training is.
        samples: that it will be asked about; their numbers are their places here.
        folder: for what is computed beforehand.

    Raises:
        QuailError: it cannot be loaded, or the disk is full.
    """
    model = _model(pair, request, device, scheme=None)
    if request.reference == "full":
        return _asked_live(model), ""
    if request.reference == "precomputed":
        if samples[0].label is not None:
            return _kept_whole(
                model, samples, device
            ), "the original's logits were computed beforehand, and all are kept"
        stored = precompute(model, samples, request.reference_top_k, folder / FOLDER, device)
        return stored.of_batch, stored.note
    rows = collate([(sample, None) for sample in samples[: request.batch_size]], padding_id(model))
    few = {name: values.to(device) for name, values in rows.items()}
    everything = slice(None)
    exact = predictions(_asked_live(model)(few, everything), few["labels"]).logits
    del model
    rounded = _asked_live(_model(pair, request, device, scheme=FOUR_BITS))
    error = (predictions(rounded(few, everything), few["labels"]).logits - exact).abs()
    return rounded, (
        f"the original is compared with in 4 bits ({FOUR_BITS}): on the first {len(rows['samples'])} samples its "
        f"logits are off by {float(error.mean()):.2g} on average, {float(error.max()):.2g} at most"
    )


def _model(pair: Pair, request: TrainRequest, device: torch.device, scheme: str | None) -> PreTrainedModel:
    dtype = find_dtype(request.dtype) or torch.float32
    model = load_arm(
        pair.original,
        None if scheme is None else scheme_named(scheme),
        layers=pair.layers,
        device=str(device) if scheme is not None else "cpu",
        dtype=str(dtype).removeprefix("torch."),
        tokenizer_of=pair.unlearned,
    ).model
    nn.Module.to(model, device)
    model.requires_grad_(False)
    return model


def _asked_live(model: PreTrainedModel) -> Original:
    @torch.no_grad()
    def logits(batch: Mapping[str, torch.Tensor], rows: slice) -> torch.Tensor:
        return logits_of(model, batch, rows)

    return logits


def _kept_whole(model: PreTrainedModel, samples: Sequence[TrainingSample], device: torch.device) -> Original:
    """A classifier's logits of every sample: a few numbers each, so they are kept in memory."""
    ask = _asked_live(model)
    found = []
    for sample in samples:
        batch = collate([(sample, None)], padding_id(model))
        found.append(ask({name: values.to(device) for name, values in batch.items()}, slice(None)))
    stored = torch.cat(found)
    return lambda batch, rows: stored[batch["samples"][rows].to(device)]


@dataclass(frozen=True, eq=False)
class Precomputed:
    """Logits on disk, mapped: a row for each place of each sample, the samples one after another.

    Attributes:
        values: float32 [places, kept]: the logits that are kept.
        tokens: int32 [places, kept]: whose they are.
        log_sum_exp: float32 [places], over the whole vocabulary.
        first: of each sample, and the number of places at the end.
        note: how far off what is not kept is.
    """

    values: npt.NDArray[np.float32]
    tokens: npt.NDArray[np.int32]
    log_sum_exp: npt.NDArray[np.float32]
    first: tuple[int, ...]
    vocabulary: int
    note: str

    def of_batch(self, batch: Mapping[str, torch.Tensor], rows: slice) -> torch.Tensor:
        """See Original."""
        return self.logits(batch["input_ids"][rows], batch["samples"][rows])

    def logits(self, ids: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Logits of these samples [rows, length, vocabulary]; zeros where a sample is padded."""
        found = torch.zeros(*ids.shape, self.vocabulary, device=ids.device)
        for row, number in enumerate(numbers.tolist()):
            first, last = self.first[number], self.first[number + 1]
            values = torch.from_numpy(np.array(self.values[first:last])).to(ids.device)
            tokens = torch.from_numpy(np.array(self.tokens[first:last], dtype=np.int64)).to(ids.device)
            whole = torch.from_numpy(np.array(self.log_sum_exp[first:last])).to(ids.device)
            found[row, : last - first] = spread_out(values, tokens, whole, self.vocabulary)
        return found


def spread_out(values: torch.Tensor, tokens: torch.Tensor, log_sum_exp: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Logits [places, vocabulary] of those that were kept [places, kept]; the others share what is left evenly."""
    others = vocabulary - values.shape[1]
    left = 1 - (values - log_sum_exp.unsqueeze(1)).double().exp().sum(1)
    rest = log_sum_exp + (left.clamp(min=1e-30).log() - math.log(max(1, others))).float()
    return rest.unsqueeze(1).expand(-1, vocabulary).scatter(1, tokens, values)


def precompute(
    model: PreTrainedModel, samples: Sequence[TrainingSample], kept: int, folder: Path, device: torch.device
) -> Precomputed:
    """Run the original over every sample once, and keep what Precomputed needs on disk.

    Raises:
        EnvironmentProblemError: the disk is full.
    """
    ask = _asked_live(model)
    vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)
    kept = min(kept, vocabulary)
    first = tuple(np.cumsum([0, *(len(sample.ids) for sample in samples)]).tolist())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        values = _made(folder / "values.npy", np.float32, (first[-1], kept))
        tokens = _made(folder / "tokens.npy", np.int32, (first[-1], kept))
        sums = _made(folder / "log_sum_exp.npy", np.float32, (first[-1],))
    except OSError as error:
        raise _no_room(folder, error) from error
    off = mass = most_mass = 0.0
    places = 0
    for number, sample in enumerate(samples):
        logits = ask({"input_ids": torch.tensor([sample.ids], device=device)}, slice(None))[0].float().cpu()
        top, which = logits.topk(kept, dim=1)
        true = torch.tensor([*sample.ids[1:], sample.ids[-1]]).unsqueeze(1)
        absent = (which != true).all(dim=1)
        which[absent, -1] = true[absent, 0]  # log p(token) is exact then
        top = logits.gather(1, which)
        whole = logits.logsumexp(1)
        place = slice(first[number], first[number + 1])
        values[place], tokens[place], sums[place] = top.numpy(), which.numpy(), whole.numpy()
        off += float((spread_out(top, which, whole, vocabulary) - logits).abs().sum())
        left = (1 - (top - whole.unsqueeze(1)).double().exp().sum(1)).clamp(min=0)
        mass += float(left.sum())
        most_mass = max(most_mass, float(left.max()))
        places += len(sample.ids)
    others = max(1, vocabulary - kept)
    return Precomputed(
        values, tokens, sums, first, vocabulary,
        f"the original's logits were computed beforehand: {kept} of {vocabulary} are kept of each token; the others "
        f"hold {100 * mass / places:.2g} % of the probability on average ({100 * most_mass:.2g} % at most) and are off "
        f"by {off / places / others:.2g} on average",
    )  # fmt: skip


def _made(path: Path, dtype: type[Any], shape: tuple[int, ...]) -> Any:
    """A new array on disk, whose room is taken at once: a full disk shows here, not in the middle of a write."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _no_room(folder: Path, error: OSError) -> EnvironmentProblemError:
    found = write_error(folder, error)
    return EnvironmentProblemError(
        found.message, where=found.where, mend="Lower --reference-top-k, or name a --run-dir on another disk"
    )

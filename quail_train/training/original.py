"""Get the frozen original's logits: run it, run it in 4 bits, or precompute them.

When precomputed, each token keeps its largest logits, the true token's, and the log-sum-exp; the other tokens share the
remaining probability evenly. This is exact for log p(token). Elsewhere it is an approximation, whose error is measured
and noted. The original then takes no memory during training.
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

from quail_audit.core.errors import BadInputError, EnvironmentProblemError
from quail_audit.core.untrusted import printable
from quail_audit.core.writing import write_error
from quail_audit.engine.checkpoints.model.model_config import read_model_config
from quail_audit.engine.forgetting.models.classifier import padding_id
from quail_audit.engine.forgetting.models.device import find_dtype
from quail_audit.engine.forgetting.models.forward import vocabulary_of
from quail_audit.engine.forgetting.models.load import load_arm
from quail_audit.engine.schemes.registry import scheme_named
from quail_train.data.batches import collate, logits_of
from quail_train.data.samples import TrainingSample
from quail_train.objectives.terms import predictions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from quail_audit.engine.checkpoints.pair import Pair
    from quail_audit.schema.requests import TrainRequest

# Some rows of a batch of collate() -> logits [rows, length, vocabulary], or a classifier's [rows, classes]
Original = Callable[[Mapping[str, torch.Tensor], slice], torch.Tensor]
FOUR_BITS = "nf4"
FOLDER = "original-logits"


def check_vocabulary(
    pair: Pair, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, samples: Sequence[TrainingSample], data: str
) -> tuple[str, ...]:
    """Return a note if the original and the trained model have different numbers of tokens.

    Args:
        pair: pair with the original.
        model: the trained model.
        tokenizer: its tokenizer.
        samples: samples that the original will be asked about.
        data: the data folder, for messages.

    Raises:
        BadInputError: a sample holds a token that the original lacks.
    """
    ours, theirs = read_model_config(pair.original.config).vocabulary, vocabulary_of(model)
    if ours is None or ours == theirs:
        return ()
    if lacking := [sample for sample in samples if max(sample.ids) >= ours]:
        token = max(lacking[0].ids)
        raise BadInputError(
            f"{len(lacking)} of {len(samples)} samples hold tokens that {pair.original.source} lacks, which has "
            f"{ours}: token {token}, {printable(repr(tokenizer.decode([token])), limit=60)}",
            where=data,
            mend="Leave these texts out; or give the original as many tokens as the other model, "
            f"model.resize_token_embeddings({theirs}), and save it; or choose an objective that does not ask the "
            "original: ga_gdr, simnpo_gdr",
        )
    if samples[0].label is not None:
        return ()  # its logits are of classes
    shared = min(ours, theirs)
    return (f"logits are compared with the original's over the first {shared} tokens, which both models have",)


def load_original(
    pair: Pair, request: TrainRequest, device: torch.device, samples: Sequence[TrainingSample], folder: Path
) -> tuple[Original, str]:
    """Return the original as request.reference asks for, and a note for the reader of the run; empty if none.

    Args:
        pair: pair with the original.
        request: request of the training.
        device: device of the training.
        samples: samples that need the original's logits; their numbers are their places here.
        folder: folder of the run, for precomputed logits.

    Raises:
        QuailError: the original cannot be loaded, or the disk is full.
    """
    model = _load(pair, request, device, scheme=None)
    if request.reference == "full":
        return _live_original(model), ""
    if request.reference == "precomputed":
        if samples[0].label is not None:
            return _precompute_classes(
                model, samples, device
            ), "the original's logits were precomputed, and all are kept"
        stored = precompute(model, samples, request.reference_top_k, folder / FOLDER, device)
        return stored.batch_logits, stored.note
    rows = collate([(sample, None) for sample in samples[: request.batch_size]], padding_id(model))
    few = {name: values.to(device) for name, values in rows.items()}
    everything = slice(None)
    exact = predictions(_live_original(model)(few, everything), few["labels"]).logits
    del model
    rounded = _live_original(_load(pair, request, device, scheme=FOUR_BITS))
    error = (predictions(rounded(few, everything), few["labels"]).logits - exact).abs()
    return rounded, (
        f"the original runs in 4 bits ({FOUR_BITS}): on the first {len(rows['samples'])} samples its "
        f"logits are off by {float(error.mean()):.2g} on average, {float(error.max()):.2g} at most"
    )


def _load(pair: Pair, request: TrainRequest, device: torch.device, scheme: str | None) -> PreTrainedModel:
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


def _live_original(model: PreTrainedModel) -> Original:
    padding = padding_id(model)

    @torch.no_grad()
    def logits(batch: Mapping[str, torch.Tensor], rows: slice) -> torch.Tensor:
        if "attention_mask" in batch:  # padded with the trained model's token, which this one may not have
            ids = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, padding)
            batch = {**batch, "input_ids": ids}
        return logits_of(model, batch, rows)

    return logits


def _precompute_classes(model: PreTrainedModel, samples: Sequence[TrainingSample], device: torch.device) -> Original:
    """Precompute a classifier's logits of every sample; they are few, so they are kept in memory."""
    ask = _live_original(model)
    found = []
    for sample in samples:
        batch = collate([(sample, None)], padding_id(model))
        found.append(ask({name: values.to(device) for name, values in batch.items()}, slice(None)))
    stored = torch.cat(found)
    return lambda batch, rows: stored[batch["samples"][rows].to(device)]


@dataclass(frozen=True, eq=False)
class PrecomputedLogits:
    """Logits on disk, memory-mapped: a row for each place of each sample, sample after sample.

    Attributes:
        values: float32 [places, kept]: the kept logits.
        tokens: int32 [places, kept]: their tokens.
        log_sum_exp: float32 [places], over the whole vocabulary.
        first: first place of each sample, and the number of places at the end.
        note: note on the error of the logits that are not kept.
    """

    values: npt.NDArray[np.float32]
    tokens: npt.NDArray[np.int32]
    log_sum_exp: npt.NDArray[np.float32]
    first: tuple[int, ...]
    vocabulary: int
    note: str

    def batch_logits(self, batch: Mapping[str, torch.Tensor], rows: slice) -> torch.Tensor:
        """See Original."""
        return self.logits(batch["input_ids"][rows], batch["samples"][rows])

    def logits(self, ids: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return logits of these samples [rows, length, vocabulary]; zeros at padding."""
        found = torch.zeros(*ids.shape, self.vocabulary, device=ids.device)
        for row, number in enumerate(numbers.tolist()):
            first, last = self.first[number], self.first[number + 1]
            values = torch.from_numpy(np.array(self.values[first:last])).to(ids.device)
            tokens = torch.from_numpy(np.array(self.tokens[first:last], dtype=np.int64)).to(ids.device)
            whole = torch.from_numpy(np.array(self.log_sum_exp[first:last])).to(ids.device)
            found[row, : last - first] = spread_out(values, tokens, whole, self.vocabulary)
        return found


def spread_out(values: torch.Tensor, tokens: torch.Tensor, log_sum_exp: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Return logits [places, vocabulary] from the kept ones [places, kept]; the others share the rest evenly."""
    others = vocabulary - values.shape[1]
    left = 1 - (values - log_sum_exp.unsqueeze(1)).double().exp().sum(1)
    rest = log_sum_exp + (left.clamp(min=1e-30).log() - math.log(max(1, others))).float()
    return rest.unsqueeze(1).expand(-1, vocabulary).scatter(1, tokens, values)


def precompute(
    model: PreTrainedModel, samples: Sequence[TrainingSample], kept: int, folder: Path, device: torch.device
) -> PrecomputedLogits:
    """Run the original over every sample once, and write the kept logits to disk.

    Raises:
        EnvironmentProblemError: the disk is full.
    """
    ask = _live_original(model)
    vocabulary = read_model_config(model.config).vocabulary or vocabulary_of(model)
    kept = min(kept, vocabulary)
    first = tuple(np.cumsum([0, *(len(sample.ids) for sample in samples)]).tolist())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        values = _create_array(folder / "values.npy", np.float32, (first[-1], kept))
        tokens = _create_array(folder / "tokens.npy", np.int32, (first[-1], kept))
        sums = _create_array(folder / "log_sum_exp.npy", np.float32, (first[-1],))
    except OSError as error:
        raise _disk_full(folder, error) from error
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
    return PrecomputedLogits(
        values, tokens, sums, first, vocabulary,
        f"the original's logits were precomputed: {kept} of {vocabulary} are kept for each token; the others "
        f"hold {100 * mass / places:.2g} % of the probability on average ({100 * most_mass:.2g} % at most) and are off "
        f"by {off / places / others:.2g} on average",
    )  # fmt: skip


def _create_array(path: Path, dtype: type[Any], shape: tuple[int, ...]) -> Any:
    """Create an array on disk and allocate it at once, so that a full disk fails here, not during a write."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _disk_full(folder: Path, error: OSError) -> EnvironmentProblemError:
    found = write_error(folder, error)
    return EnvironmentProblemError(
        found.message, where=found.where, mend="Lower --reference-top-k, or name a --run-dir on another disk"
    )

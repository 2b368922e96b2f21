"""Read a classifier's labelled forget and retain sets as training samples.

They are read and fitted to the model as the audit does it (quail_audit.engine.forgetting.data.labels).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from quail_audit.core.errors import BadInputError
from quail_audit.engine.checkpoints.model.model_config import read_model_config
from quail_audit.engine.forgetting.data.folder import read_folder
from quail_audit.engine.forgetting.data.names import suggest_names
from quail_audit.engine.forgetting.data.spellings import Columns
from quail_audit.engine.forgetting.measurable import EXPECTED, fit_data
from quail_audit.engine.forgetting.models.classifier import token_ids_of
from quail_audit.engine.forgetting.models.windows import window_of_classifier
from quail_train.data.samples import TrainingData, TrainingSample, number_samples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from quail_audit.engine.checkpoints.pair import Pair
    from quail_audit.engine.forgetting.data.types import ForgettingData, LabelledSet


def read_labelled(
    path: str,
    pair: Pair,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    columns: Columns,
    max_length: int,
    retain_needed_by: str | None,
    seed: int,
) -> TrainingData:
    """Read a classifier's forget and retain sets.

    Args:
        path: the folder.
        pair: pair whose labels the data must fit.
        model: the trained model.
        tokenizer: its tokenizer.
        columns: names of the text and label columns.
        max_length: in tokens, at most the model's window; a longer text is cut as the tokenizer cuts.
        retain_needed_by: name of the objective that needs a retain set; None if none is needed.
        seed: random seed of the other labels.

    Raises:
        BadInputError: no such folder, a file that cannot be used, an unknown label, data for language models, no forget
            set, or a missing retain set.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise BadInputError(
            "is a file, not a folder" if folder.exists() else "no such folder",
            where=path,
            mend=EXPECTED["classification"],
        )
    data = fit_data(read_folder(folder, columns=columns), pair.original, pair.unlearned)
    window = window_of_classifier(read_model_config(model.config), tokenizer)
    most = max_length if window is None else min(max_length, window)
    random = Random(seed)  # noqa: S311 - nothing secret
    classes = {label: place for place, label in enumerate(data.labels)}

    def samples(name: LabelledSet) -> Iterator[TrainingSample]:
        for row in data.labelled.get(name, ()):
            label = classes[row.label]
            other = random.choice([place for place in classes.values() if place != label])
            yield TrainingSample(
                tuple(token_ids_of(row.text, model, tokenizer, most)), (), label=label, other_label=other
            )

    forget, retain = tuple(samples("forget")), tuple(samples("retain"))
    if not forget:
        raise BadInputError("holds no forget set", where=path, mend=suggest_names(folder) or EXPECTED["classification"])
    if retain_needed_by is not None and not retain:
        raise BadInputError(
            f"holds no retain set, which the objective {retain_needed_by} needs",
            where=path,
            mend="Add retain.csv, or choose an objective without a retain term: ga, npo, simnpo, relabel",
        )
    return number_samples(forget, retain, tuple(_notes(data)))


def _notes(data: ForgettingData) -> Iterator[str]:
    yield from data.notes
    if len(data.labelled["forget"]) == 1:
        yield "the forget set is one sample: every step sees the same one, and it says little about forgetting"
    counts = Counter(row.label for row in data.labelled.get("retain", ()))
    if (absent := [label for label in data.labels if label not in counts]) and counts:
        yield f"the retain set has no sample of {', '.join(absent)}: nothing asks the model to keep it"

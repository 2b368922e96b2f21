"""What calibrated schemes are calibrated on: the retain texts of the data folder, or a file.

Also the folder that a backend loads a checkpoint from, as only here the tokenizer and the merged model are at hand.
Not here: quantizing (schemes/calibrated.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.schema.layout import RAW_RETAIN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


ROW_TOKENS = 512  # a sample's length, where the model's window is no shorter


def calibration_texts(calibration: str | None, data: str | None) -> tuple[str, ...]:
    """The texts to calibrate on.

    Args:
        calibration: a file: .jsonl with {"text"}, {"prompt", "completion"} or {"question", "answer"}; else plain text.
        data: a data folder, whose retain texts are taken where no file is given.

    Raises:
        UsageError: neither was given.
        BadInputError: the file cannot be read, or there is no text in it.
    """
    if calibration is not None:
        texts = _of_file(Path(calibration))
        where = calibration
    elif data is not None:
        texts = _of_folder(Path(data))
        where = data
    else:
        raise UsageError(
            "a calibrated scheme needs texts to calibrate on",
            where="--scheme",
            mend="Give --calibration FILE, or --data with retain texts",
        )
    if not texts:
        raise BadInputError(
            "holds no text to calibrate on", where=where, mend="Give --calibration FILE, or retain texts in the data"
        )
    return texts


def _of_file(path: Path) -> tuple[str, ...]:
    from quail_audit.engine.forgetting.data.rows import read_jsonl_rows, read_text

    if path.suffix == ".jsonl":
        return tuple(_text_of(row.model_dump()) for row in read_jsonl_rows(path))
    text = read_text(path)
    return (text,) if text.strip() else ()


def _text_of(row: dict[str, str]) -> str:
    return " ".join(part.strip() for part in row.values())


def _of_folder(folder: Path) -> tuple[str, ...]:
    """The retain text to train on, else what is measured on the retain side."""
    from quail_audit.engine.forgetting.data.folder import read_folder

    raw = folder / RAW_RETAIN
    if raw.is_file():
        return _of_file(raw)
    data = read_folder(folder)
    if texts := data.texts.get("retain"):
        return texts
    if continuations := data.continuations.get("retain"):
        return tuple(_text_of(row.model_dump()) for row in continuations)
    asked = data.questions.get("retain")
    return tuple(_text_of(row.model_dump()) for row in asked.asked) if asked else ()


def rows_of(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, samples: int, window: int | None, least: int, seed: int
) -> tuple[tuple[int, ...], ...]:
    """Texts as rows of tokens: joined, cut into rows of one length, some of which are chosen.

    Args:
        texts: in order.
        tokenizer: of both checkpoints.
        samples: at most so many rows.
        window: of the model, in tokens; None: unknown.
        least: tokens that there must be: as many as the widest layer has columns. With fewer, that layer's Hessian
            is singular, and only damping makes it invertible.
        seed: of the choice.

    Raises:
        BadInputError: there are fewer tokens.
    """
    ids: list[int] = []
    for text in texts:
        ids += tokenizer(text, add_special_tokens=True, truncation=False)["input_ids"]
    length = min(ROW_TOKENS, window or ROW_TOKENS)
    rows = [tuple(ids[start : start + length]) for start in range(0, len(ids), length)]
    if len(rows) > 1 and len(rows[-1]) < length:
        del rows[-1]
    chosen = rows
    if len(rows) > samples:
        places = random.Random(seed).sample(range(len(rows)), samples)  # noqa: S311 - no secret
        chosen = [rows[place] for place in sorted(places)]
    found = sum(map(len, chosen))
    if found < least:
        raise BadInputError(
            f"{found} tokens to calibrate on are too few: the widest layer has {least} columns, and its Hessian needs "
            "as many tokens",
            where="--calibration",
            mend=f"Give a file with more text, or --calibration-samples {-(-least // length)} or more",
        )
    return tuple(chosen)

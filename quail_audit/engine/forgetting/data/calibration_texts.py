"""Read the texts that rounding is calibrated on, and cut them into rows of tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quail_audit.core.errors import BadInputError, UsageError
from quail_audit.schema.layout import RAW_RETAIN, ROW_SUFFIXES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from quail_audit.engine.forgetting.data.types import Row


ROW_TOKENS = 512  # tokens of a row, if the model's window is no shorter


def read_calibration_texts(calibration: str | None, data: str | None) -> tuple[str, ...]:
    """Return the texts that an audit's calibrated schemes are calibrated on.

    Args:
        calibration: a file; see read_texts.
        data: a data folder, whose retain texts are taken if no file is given.

    Raises:
        UsageError: neither was given.
        BadInputError: the file cannot be read, or there is no text in it.
    """
    if calibration is not None:
        texts = read_texts(Path(calibration))
        where = calibration
    elif data is not None:
        texts = _read_retain_texts(Path(data))
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


def read_texts(path: Path, *, by_line: bool = False) -> tuple[str, ...]:
    """Return the texts of a file, those that are not blank, in order.

    A .jsonl, .json, .csv or .parquet file has one text a row, in any form of spellings.py; the parts of a row are
    joined by a space. Any other file is plain text:

    - The whole file is one text by default. `quail audit` joins texts and cuts them into rows, so nothing is lost, and
      line breaks stay where the model is used to them.
    - Each line is a text with by_line. `quail carry` takes each text as a row, cut to its first 512 tokens, so it would
      lose nearly all of a text that is a whole file.

    Args:
        path: the file.
        by_line: see above.

    Raises:
        QuailError: it cannot be read, its encoding cannot be told, or its rows are of no form.
    """
    from quail_audit.engine.forgetting.data.files.text_files import read_text
    from quail_audit.engine.forgetting.data.rows import read_rows

    if path.name.endswith(ROW_SUFFIXES):
        return tuple(map(_text_of, read_rows(path).rows))
    text = read_text(path).text
    return tuple(part for part in (text.split("\n") if by_line else (text,)) if part.strip())


def _text_of(row: Row) -> str:
    return " ".join(part.strip() for part in row.model_dump(exclude={"label", "paraphrases"}).values())


def _read_retain_texts(folder: Path) -> tuple[str, ...]:
    """Return the retain text for training if there is one, else the retain side of what is measured."""
    from quail_audit.engine.forgetting.data.folder import read_folder

    raw = folder / RAW_RETAIN
    if raw.is_file():
        return read_texts(raw)
    data = read_folder(folder)
    if texts := data.texts.get("retain"):
        return texts
    if continuations := data.continuations.get("retain"):
        return tuple(map(_text_of, continuations))
    questions = data.questions.get("retain")
    return tuple(map(_text_of, questions.asked)) if questions else ()


def cut_into_rows(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, samples: int, window: int | None, least: int, seed: int
) -> tuple[tuple[int, ...], ...]:
    """Join texts, cut their tokens into rows of one length, and choose some of the rows.

    Args:
        texts: in order.
        tokenizer: the tokenizer of both checkpoints.
        samples: the most rows to return.
        window: the model's window in tokens; None: unknown.
        least: the fewest tokens to return, the number of columns of the widest layer. With fewer, that layer's Hessian
            is singular, and only damping makes it invertible.
        seed: random seed for the choice.

    Raises:
        BadInputError: there are fewer tokens than least.
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

"""Silence transformers: Quail itself says what the user must know."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within it, transformers logs errors only, shows no progress bars, and nothing warns of what will be deprecated.

    Afterwards all is as it was.
    """
    from transformers.utils import logging as untyped

    logging: Any = untyped
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    is_talkative = verbosity != logging.ERROR  # setting it is slow: every logger forgets what it is to log
    if is_talkative:
        logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if is_talkative:
            logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()

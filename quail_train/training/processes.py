"""How many processes train together, and which of them this is: as torchrun and accelerate launch say."""

import os


def processes() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the one that writes and shows."""
    return int(os.environ.get("RANK", "0")) == 0

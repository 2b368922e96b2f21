"""Tell how many processes train together, and which one this is.

torchrun and accelerate launch set both.
"""

import os


def process_count() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return True in the process that writes and shows."""
    return int(os.environ.get("RANK", "0")) == 0

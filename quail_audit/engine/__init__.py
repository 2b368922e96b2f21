"""All that opens a tensor: a request in, events out. No face imports it."""

import logging

# These loggers warn about code that Quail does not use: torchao, which transformers imports unasked, about extensions
# for other devices; bitsandbytes about a kernel of its own modules on a CPU. They are set here, because every module of
# the engine is imported after this one, and so are those libraries. A level that was set before stays.
for _name in ("torchao", "torch.utils._pytree", "bitsandbytes.backends.cpu.ops"):
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(logging.ERROR)

"""All that opens a tensor: a request in, events out. No face imports it."""

import logging

# Loggers that warn of what Quail does not use: torchao, which transformers imports unasked, of what is missing for
# other devices; bitsandbytes of a kernel that its own modules would multiply with on a CPU. Set here, because every
# module of the engine is imported after this one, and so are those libraries. A level that was set before stays.
for _name in ("torchao", "torch.utils._pytree", "bitsandbytes.backends.cpu.ops"):
    if logging.getLogger(_name).level == logging.NOTSET:
        logging.getLogger(_name).setLevel(logging.ERROR)

"""Make checkpoints: retrain with the hinge, carry updates, build the demo.

quail_train imports quail_audit, never the other way.
"""

import quail_audit.engine  # noqa: F401 - quiets the loggers of libraries, before any module here imports transformers

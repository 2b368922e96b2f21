"""Make checkpoints: hinge retraining, carry, and the demo. Imports quail_audit, never the other way."""

import quail_audit.engine  # noqa: F401 - quiets the loggers of libraries, before any module here imports transformers

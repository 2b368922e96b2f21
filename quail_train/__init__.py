"""Make checkpoints: hinge retraining, carry, and the demo. Imports quail_audit, never the other way."""

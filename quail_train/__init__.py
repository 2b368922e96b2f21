"""Making checkpoints: the demo. May import quail_audit, never the other way."""

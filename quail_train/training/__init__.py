"""Unlearn again with the hinge, so that the update outlives rounding."""

"""Choices before a start: what they may be, and whether they fit together."""

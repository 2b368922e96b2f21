"""The choices before a start: which there are, and whether they fit together."""

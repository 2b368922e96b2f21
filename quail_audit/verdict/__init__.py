"""Decide what the figures mean for a release: policies, verdicts, comparisons, cures."""

"""Decide what the figures mean for a release: policies, checks, verdicts, comparisons, cures."""

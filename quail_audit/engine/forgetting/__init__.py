"""Measure what a model still knows of the forget set."""

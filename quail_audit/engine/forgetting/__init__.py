"""Measuring what a model still knows of the texts it was to forget: data, metrics, arms, intervals and recovery."""

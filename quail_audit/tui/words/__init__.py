"""Figures in sentences, for the screens."""

"""Themes: their files, and their colours as styles."""

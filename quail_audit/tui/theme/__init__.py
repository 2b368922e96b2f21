"""The themes: their files, and their colours as styles."""

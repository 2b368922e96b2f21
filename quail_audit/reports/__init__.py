"""Reports of a finished run: one file a format, each from a Report alone."""

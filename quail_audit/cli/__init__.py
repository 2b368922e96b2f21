"""The `quail` command: one file a command."""

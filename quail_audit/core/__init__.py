"""Provide what every other folder stands on: errors, values, files, clocks, plug-ins."""

"""The parts of the screens, one file for each widget."""

"""Keep a run: its folder, events, journal, report, and proof that they did not change."""

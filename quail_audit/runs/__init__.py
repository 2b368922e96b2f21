"""What a run keeps: its folder, its events, its journal, its report, and proof that they did not change."""

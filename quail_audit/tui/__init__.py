"""Start audits and trainings as processes, and follow their events: the terminal app."""

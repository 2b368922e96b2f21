"""What the events of a run come to so far: one fold for each kind of run."""

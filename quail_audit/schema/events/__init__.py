"""Define the events of a run: one class an event, one file a kind of run."""

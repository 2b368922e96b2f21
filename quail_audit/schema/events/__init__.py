"""What a run says as it goes: one class an event, one file a kind of run."""

"""What a run says about its own repair: which layers bring the memory back, and what can be done about it."""

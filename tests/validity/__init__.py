"""Make a truth set of small unlearned checkpoints, and hold Quail's verdicts to it: make validity."""

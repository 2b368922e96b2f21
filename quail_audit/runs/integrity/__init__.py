"""Whether a run and what it read are as they were: hashes, checks, signatures."""

"""Check that a run and the files it read are unchanged: hashes, checks, signatures."""

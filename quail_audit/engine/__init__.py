"""All that opens a tensor: a request in, events out. No face imports it."""

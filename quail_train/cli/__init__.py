"""`quail train`, `quail carry` and `quail demo`."""

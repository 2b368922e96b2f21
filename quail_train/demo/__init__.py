"""Small models made from nothing, which leak when they are rounded."""

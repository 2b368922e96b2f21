"""Read weights that are stored quantized: one file for each format."""

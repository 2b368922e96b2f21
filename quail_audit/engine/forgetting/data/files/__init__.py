"""Files of rows, whatever their format: text, JSON, tables."""

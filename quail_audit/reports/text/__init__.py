"""A finished run as text for a terminal."""

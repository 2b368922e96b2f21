"""Runs that the app follows while they go, and the processes that make them."""

"""The audit: layers, arms and recoveries of a pair, as events."""

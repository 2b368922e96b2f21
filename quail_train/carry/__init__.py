"""Move each weight that rounding would take back into the bucket where the update wants it."""

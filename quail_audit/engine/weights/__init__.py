"""Statistics over a pair of weight matrices: what rounding makes of an update."""

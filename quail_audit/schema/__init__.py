"""The plain values that cross a process or stand in a file: requests, figures, events, reports, policies."""

"""Define the values that are stored or sent: requests, figures, events, reports, policies."""

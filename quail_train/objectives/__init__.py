"""Define what training minimizes: terms, the hinge, its margin, and the published presets."""

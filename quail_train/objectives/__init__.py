"""What training minimizes: terms, the hinge, its margin, and the published presets."""

"""Build small models that leak what they forgot when they are rounded."""

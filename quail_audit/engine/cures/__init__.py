"""Find the layers that bring the memory back, and what can be done about them."""

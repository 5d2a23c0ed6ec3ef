"""What annotations allow: ceilings of a frame grid, and statistics."""

"""Find faces and their five landmarks."""

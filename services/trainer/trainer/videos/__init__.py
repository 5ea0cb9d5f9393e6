"""Videos: a file is searched in segments, and answered once per person."""

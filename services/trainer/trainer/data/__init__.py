"""Data sets: their labels, their folds, and the extraction of their faces."""

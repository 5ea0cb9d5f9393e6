"""Extracted data sets: which there are, their folds and near-duplicates, several as one."""

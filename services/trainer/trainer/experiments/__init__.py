"""Experiments: a subject-exclusive cross-validation each, whose files on disk are the truth about it."""

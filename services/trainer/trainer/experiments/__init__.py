"""Experiments: one leave-one-fold-out cross-validation each; the truth about it lies on the volume."""

"""Accuracy and uncertainty of heads, of everything they are compared with, on identical folds."""

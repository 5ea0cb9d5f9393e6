"""Evaluations: heads judged on labelled faces that they never saw, and calibrated on them if requested."""

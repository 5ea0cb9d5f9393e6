"""Metrics and calibration of predictions: arrays in, numbers out."""

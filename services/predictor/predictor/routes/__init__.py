"""The predictor's HTTP routes, one module per subject."""

"""What the predictor answers over HTTP, one module a subject."""

"""Made videos of real labelled faces, and what they measure: `python -m benchmarks.video`."""

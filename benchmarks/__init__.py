"""Benchmarks as ratios; one command runs both sides within the same minute."""

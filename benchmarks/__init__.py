"""Figures as ratios, both sides run in the same minute by one command."""

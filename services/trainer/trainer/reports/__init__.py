"""Reports of experiments: summary, tables, plots, and their files."""

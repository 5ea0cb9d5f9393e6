"""What an experiment found: figures, tables, plots."""

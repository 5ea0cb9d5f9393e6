"""Commands that the Makefile runs."""

"""The trainer: HTTP API, queue jobs, and what they do."""

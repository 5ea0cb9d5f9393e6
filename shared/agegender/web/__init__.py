"""What every HTTP service has: problem documents, health, metrics, request ids, logs."""

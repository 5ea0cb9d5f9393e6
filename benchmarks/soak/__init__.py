"""Soak test: mixed traffic above the system's capacity; checks responses, latency and memory."""

"""What every HTTP service shares: the app factory, settings, access, limits, request bodies and logs."""

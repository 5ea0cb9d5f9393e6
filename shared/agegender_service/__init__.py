"""Code of every HTTP service: application, settings, access, limits, request bodies, clients and logs."""

"""Support shared by tests: doubles, made-up data, servers and whole systems."""

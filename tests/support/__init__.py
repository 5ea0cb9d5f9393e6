"""What tests share: doubles, made-up data, servers and whole systems."""

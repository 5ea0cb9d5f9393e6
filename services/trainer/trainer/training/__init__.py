"""Train banks of networks: arrays in, weights out."""

"""Train banks of heads: arrays in, weights out."""

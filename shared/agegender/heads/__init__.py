"""Heads: small networks that turn an embedding into a distribution over ages or genders."""

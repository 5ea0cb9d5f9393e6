"""The hardened front of the embedding containers."""

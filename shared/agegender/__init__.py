"""The domain of age-gender, shared by its services; imports none of them."""

__version__ = "0.1.0"

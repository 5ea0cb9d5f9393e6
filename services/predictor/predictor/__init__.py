"""One image in, one age and gender per face out."""

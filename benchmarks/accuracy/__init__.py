"""Compare the accuracy and uncertainty of heads and alternatives on identical folds."""

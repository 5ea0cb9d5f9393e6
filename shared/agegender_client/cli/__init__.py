"""`agegender` on the command line: data sets, training, heads and predictions, without curl."""

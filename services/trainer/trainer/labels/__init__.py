"""Labels: what is a data set, which kind of one, and a reader for each kind."""

"""One thin module per data set, and the synthetic ones."""

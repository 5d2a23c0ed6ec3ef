"""Rows and videos -> a data set of cached frames."""

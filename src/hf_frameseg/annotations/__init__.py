"""Annotation files of data sets -> rows of queries. No frames, no videos."""

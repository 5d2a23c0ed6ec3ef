"""Annotation files of data sets -> rows of queries. No frames, no videos.

`files` opens a file and `forms` tells its form. The reader of that form (`table`, `charades_sta`, `activitynet`) says
what the file states of each query, and `entries` makes rows of the seven fields (`schema`), with ratings for every data
set (`ratings`). Rows of QVHighlights have these fields already and are only checked (`qvhighlights`).
"""

"""Where the videos of a data set lie: a folder, a tar or zip archive."""

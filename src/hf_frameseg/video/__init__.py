"""A video file -> frames at known times, in a process that can be killed."""

"""Data: videos to frames, frames to rows, rows to batches. Import the submodule you need; this file loads none."""

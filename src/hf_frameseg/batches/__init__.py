"""Rows -> model tensors: prompts, encoding, the collator, and which process gets which row."""

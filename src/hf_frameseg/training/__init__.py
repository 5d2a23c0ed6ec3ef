"""The trainer, its arguments, evaluation, checkpoints and recipes."""

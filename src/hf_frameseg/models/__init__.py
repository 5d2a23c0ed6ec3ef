"""Model ports that transformers does not ship; each one imports transformers and torch only."""

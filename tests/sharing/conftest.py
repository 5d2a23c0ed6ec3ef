"""Fixtures of the saved adapters."""

from adapter_fixtures import base, collator, save, trained  # noqa: F401

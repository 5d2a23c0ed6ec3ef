"""Models that go from one machine to another: their settings, loading, adapters, the Hub."""

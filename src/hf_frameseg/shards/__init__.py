"""Prepared data as Parquet shards: written, read as a stream, made by many machines."""

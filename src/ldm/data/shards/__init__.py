"""Tar shards: index, order, reader, filters, aspect-ratio buckets, writer, data module."""

"""Batching, caching and running of graphs."""

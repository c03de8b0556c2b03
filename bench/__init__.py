"""Benchmarks of the service; docs/benchmarks.md describes each of them."""

"""Benchmarks of the service: docs/benchmarks.md says what each measures."""

"""Timings and peak memory of longspan beside its rivals. Run ``python -m benchmarks --help``."""

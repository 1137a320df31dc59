"""Benchmarks: `python -m tests.bench --help`. Every figure in the README comes from here."""

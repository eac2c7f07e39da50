"""Benchmarks: each a script that prints a table and writes JSON; `python -m benchmarks --help` lists them."""

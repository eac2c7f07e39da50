"""Engines: fast ways to compute what the plain JAX rules define, chosen behind the public functions."""

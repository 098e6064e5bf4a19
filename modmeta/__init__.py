"""Relational inference by modular meta-learning, in JAX."""

__version__ = "0.1.0"

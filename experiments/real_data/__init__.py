"""Recordings that no simulator of this package made, and what is found in them."""

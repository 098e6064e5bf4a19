"""How searches scale with the size of systems, and what learned proposals add."""

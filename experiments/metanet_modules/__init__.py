"""Reads which law a module of a bank encodes from its weights."""

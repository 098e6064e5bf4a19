"""Entities that nobody recorded: found by what they do to those that were."""

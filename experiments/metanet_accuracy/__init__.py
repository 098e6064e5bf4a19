"""Accuracy prediction: how good a network is, read from its weights."""

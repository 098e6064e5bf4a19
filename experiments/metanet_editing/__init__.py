"""Edits and classifies images by the weights of the networks that hold them."""

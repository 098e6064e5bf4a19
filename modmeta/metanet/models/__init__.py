"""Metanetworks: graph metanetworks, read-outs and the models they are compared to."""

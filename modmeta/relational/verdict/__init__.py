"""Whether a graph can be believed, and what the data say instead."""

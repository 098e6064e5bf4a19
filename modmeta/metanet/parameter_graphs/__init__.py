"""Parameter graphs: from a Flax model and its variables to a graph, and back."""

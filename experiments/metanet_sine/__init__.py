"""Self-supervised learning on the weights of sine networks."""

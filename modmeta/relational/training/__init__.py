"""From trajectories to a trained model: BounceGrad's step and the loop around it."""

"""Relations, dynamics and predictions from unlabelled trajectories."""

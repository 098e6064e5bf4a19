"""From tasks to super-graphs and back: batches, structures and frames of tasks."""

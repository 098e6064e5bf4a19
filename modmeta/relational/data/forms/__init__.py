"""Whatever holds trajectories in, one data set out.

A reader per form (`tables`, `labelled` axes, `files`, `nri_files`) says what its input
holds, `inputs` tells the forms apart, and `arrays` makes of what was held and what the
user says besides a `TrajectoryDataset`, checked and complete. Nothing is compiled.
"""

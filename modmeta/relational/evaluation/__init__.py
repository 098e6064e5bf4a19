"""From relations and predictions to scores, and to the files that others read."""

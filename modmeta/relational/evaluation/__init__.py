"""What a model says of observed changes, its scores, and the files that others read."""

"""Tasks of metanetworks: what they read in batches, learn, and are scored by."""

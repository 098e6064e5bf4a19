"""Hidden entities: found by what they do to those that were recorded."""

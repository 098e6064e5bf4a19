"""Networks for metanetworks to read, and Flax layers that they are made of."""

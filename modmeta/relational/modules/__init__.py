"""The network that a structure composes.

From fitted constants and states to what modules say: edge inputs, the bank of edge and
node modules, the proposal head, and the evidence that the head may read.
"""

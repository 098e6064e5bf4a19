"""From what modules say to the energy of a structure, in nats.

With messages kept (`cached`), computed anew (`recomputed`), or of the composed network
in one step and in free roll-outs (`composed`); and structural priors.
"""

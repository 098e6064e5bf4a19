"""What every run needs, whatever it computes.

Checkpoints, metrics, progress, files, optional packages, types of options, devices,
room for compiled programs, the loop that every trainer runs in, and the look of
figures. Nothing here knows of relations, searches or metanetworks.
"""

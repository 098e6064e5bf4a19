"""What presets and cells there are, for the help of launchers; imports nothing slow."""

PRESETS = {
    "digits": "960 networks on small digits, a quarter of an hour on two cores",
    "diverse": "400 networks per family on the images of --data, an hour",
    "convolutions": "2,000 networks of 2-D convolutions on them, an hour",
    "published": "2,000 networks of five families, larger metanets, for a GPU",
    "published_convolutions": "2,000 networks of 2-D convolutions, the same",
}

ALL_WIDTHS, WIDER = CELLS = ("all_widths", "wider")
"""Cells of the table of many seeds."""

"""Many kinds of data, and whether answers on them can be believed."""

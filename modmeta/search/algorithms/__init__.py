"""The searches: file, builder and name in the registry are the same word.

What is imported from here are modules, `modmeta.search.algorithms.gibbs`; the builders
are functions of `modmeta.search`, `search.gibbs`.
"""

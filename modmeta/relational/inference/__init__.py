"""From a model and a data set to relations.

Search problems of a batch, the chains that search them, what memory that needs, and
the relations of all tasks; models and their files.
"""

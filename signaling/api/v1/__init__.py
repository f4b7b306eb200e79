"""The calls API, version 1: `routes.py` is the table, one file per family of resources holds what they do."""

"""Durable state: SQLAlchemy Core on SQLite or PostgreSQL.

A row holds its entity as a JSON document beside the columns that are searched. Not here: rules, and what is told to
whom.
"""

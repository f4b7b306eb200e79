"""Servers under test, each behind the same small interface (`base.py`)."""

"""Marks for a copy of the suite, from what it saved; nothing of it is run."""

"""Notebooks, report, README: what is built from sources and records."""

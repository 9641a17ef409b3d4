"""Datasets by name, published or stand-in: what a notebook trains on."""

"""Plumbing shared by the six notebooks: data, training, records, figures, notebooks, grading.

The models, losses and estimators that the homework sheets ask for are written in the notebooks themselves; nothing here
imports a notebook except :mod:`helpers.publish.notebooks`, which loads a notebook's definitions for tests and benchmarks.
"""

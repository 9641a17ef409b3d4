"""Work on runs by their ids: one at a time, what is left, proofs that nothing changed, many seeds, many machines."""

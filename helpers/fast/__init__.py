"""Quick twins of definitions that stand, plainly, in a notebook; each tested equal to it."""

"""Diffusion of symbols: a Markov chain on each cell's own finite set, and the one network that undoes it."""

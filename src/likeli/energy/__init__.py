"""Densities known up to a constant: how they are moved about in, trained, and normalised."""

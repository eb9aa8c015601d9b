"""Exact algebra of Gaussians and their mixtures: covariances by kind, conditioning on observed cells, starting clusters."""

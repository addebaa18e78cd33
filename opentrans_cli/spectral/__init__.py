"""Spectra of layers: eigenvalues, power-law fits of their tails, and which layers to freeze."""

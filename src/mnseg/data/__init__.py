"""Datalists, checks, sampling, transforms and phantoms."""

"""Masks from the published model."""

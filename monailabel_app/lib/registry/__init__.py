"""Versions of the model: kept whole, measured, judged, published in one step."""

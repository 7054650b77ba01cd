"""Simple models that a transformer has to beat, trained on the same data."""

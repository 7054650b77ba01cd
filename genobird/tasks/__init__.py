"""Training and evaluation: the only place that imports Lightning."""

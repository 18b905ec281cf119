"""Training: a generator that yields one result an epoch. It knows models, metrics and windows, and no Ray."""

"""What passes that make a model smaller share: what may be cut together, its worth, the cut."""

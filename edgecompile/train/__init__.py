"""Training before compression: data, augmentation, loop."""

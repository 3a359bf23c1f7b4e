"""Training: views, augmentations, losses, and the loop."""

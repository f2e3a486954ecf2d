"""A finished cell's model at work on images, with Ray Data."""

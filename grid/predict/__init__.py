"""A finished cell's model at work on images, by Ray Data."""

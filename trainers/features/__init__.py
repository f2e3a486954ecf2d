"""The feature store: one vector an image by a frozen backbone, made once and kept."""

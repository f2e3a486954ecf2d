"""The learning curve of a frozen backbone on a dataset: how it is made and shown."""

"""The experiment file: what it may say, how it is read, and all its problems in one message."""

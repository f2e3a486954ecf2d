"""What a stranger's files may hold: a collection of nasty inputs, and fuzzing of every reader."""

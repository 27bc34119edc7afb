"""What a checkpoint's files say, before any of its weights are read."""

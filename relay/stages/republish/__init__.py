"""Republish: delivered events once more, because a person asked for it (`relay replay`)."""

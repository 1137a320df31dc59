"""Models in which any schedule can be played."""

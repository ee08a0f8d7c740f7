"""What engines of containers tell: one form of a container, whichever of their APIs says it."""

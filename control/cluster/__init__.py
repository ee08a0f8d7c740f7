"""What the controller keeps in the cluster itself: its root, who leads, and what the leader alone writes for others to read."""

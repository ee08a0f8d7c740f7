"""The applications in the demo's pods: they know nothing of the mesh."""

"""`make bench`: what the mesh costs, beside the direct path and two Envoys that do the same HBONE work, in one run."""

"""What the story shows, a function for each claim of the mesh: given the shop and the report, it leaves the shop as it found it."""

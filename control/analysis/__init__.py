"""What is likely not meant in a mesh's configuration, though each object may be right by itself; codes are Istio's where it has one."""

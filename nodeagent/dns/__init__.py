"""DNS for the workloads of this node: names of the mesh are answered here, all others by the resolver that was asked."""

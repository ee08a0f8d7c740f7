"""Installing the mesh in a cluster, for people who have neither Helm nor Kustomize at hand."""

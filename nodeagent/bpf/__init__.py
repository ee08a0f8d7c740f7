"""eBPF: the programs' sources, their loader, and typed views of their maps. Keeps nothing that can't be made anew."""

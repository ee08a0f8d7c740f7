"""What the kernel tells of connections: how TCP fared between workloads, and which process opened one."""

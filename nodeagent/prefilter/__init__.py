"""Keeps in the kernel what of each captured workload's connections is refused at the first packet, and tells what was."""

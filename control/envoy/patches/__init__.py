"""Patches by EnvoyFilter: what they may hold, where they hold, and how they change what Envoys are served."""

"""Modules that requests pass, by WasmPlugin: which hold where, where they come from, and what they may do."""

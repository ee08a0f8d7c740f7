"""The node's side of CNI: the plugin that container runtimes call (Rust, `plugin/`), its installation, and the agent's answers to it."""

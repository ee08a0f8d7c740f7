"""Delta discovery for node agents: what each stream asked for, what it holds, and what to send next."""

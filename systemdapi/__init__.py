"""What a service of ours says to systemd: how it is (`notify`), and what it logs, with fields (`journal`). Elsewhere it says nothing."""

"""The certificate authority: who asks, for whom they may ask, and the certificates that they get."""

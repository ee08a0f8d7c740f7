"""What is wrong with a host or its agent, in words, and what to do about it."""

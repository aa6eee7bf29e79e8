"""What is accepted and what is claimed, and the statistics behind it."""

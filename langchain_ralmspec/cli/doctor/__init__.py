"""What is slow in a stack, and what to set."""

"""One job in a process of its own: whatever is heavy is imported here, and nowhere else."""

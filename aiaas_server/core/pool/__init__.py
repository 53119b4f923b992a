"""What is loaded now."""

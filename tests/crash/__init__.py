"""Kill a server at any moment, and see that nothing it acknowledged is missing."""

"""What should be: models, their immutable versions, and who gets which of them."""

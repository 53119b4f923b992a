"""What a model is: configuration, card, what is derived from the graph, where it lies."""

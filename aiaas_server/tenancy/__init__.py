"""Who asks, what they may use, what they used, what it costs, and what was done."""

"""Jobs: rows, leases, the processes that carry them out, and the recipes of training."""

"""How the versions that serve are doing: traffic, drift, ground truth, guards."""

"""KServe's V1 routes and the simple form of predict."""

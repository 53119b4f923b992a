"""From a call to an answer: endpoints, retries, deadlines; what is decided without I/O."""

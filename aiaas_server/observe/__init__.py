"""What the server tells about itself: metrics, trace context, logs."""

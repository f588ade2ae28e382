"""Images with labels, resident on a device as uint8."""

"""Tables and figures of the performance page, made from result files."""

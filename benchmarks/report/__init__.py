"""The performance page: its tables and figures, all made from result files."""

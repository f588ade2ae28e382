"""Tries to break ncfast: kills, fuzzed calls, full disks, lost ranks, damaged files, a long run."""

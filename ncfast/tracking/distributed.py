"""What a tracker needs to measure over several processes."""

from ncfast.distributed import all_reduce_many

__all__ = ["all_reduce_many"]

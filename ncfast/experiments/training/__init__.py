"""Many training runs that differ in settings and seed, trained by one batched program."""

"""Every operation of ``ncfast bench``, one file each."""

from ncfast.benchmarks.operations import class_moments, metrics, rnc1, scatter
from ncfast.benchmarks.registry import Operation

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        class_moments.OPERATION,
        rnc1.OPERATION,
        *metrics.TIERS,
        scatter.OPERATION,
    )
}

"""Every operation of ``ncfast bench``, one file each."""

from ncfast.benchmarks.operations import (
    class_moments,
    knn,
    metrics,
    mutual_information,
    plane,
    replica_step,
    rnc1,
    scatter,
    tracker_step,
)
from ncfast.benchmarks.registry import Operation

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        class_moments.OPERATION,
        rnc1.OPERATION,
        *metrics.TIERS,
        scatter.OPERATION,
        knn.OPERATION,
        mutual_information.OPERATION,
        plane.OPERATION,
        tracker_step.OPERATION,
        replica_step.OPERATION,
    )
}

"""Every operation of ``ncfast bench``, one file each."""

from ncfast.benchmarks.operations import (
    all_reduce,
    class_moments,
    entropy,
    gradient,
    knn,
    log_point,
    metrics,
    mutual_information,
    plane,
    replica_step,
    rnc1,
    scatter,
    tracker_block,
    tracker_cost,
    tracker_step,
    update,
)
from ncfast.benchmarks.registry import Operation

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        class_moments.OPERATION,
        class_moments.GRID_OPERATION,
        update.OPERATION,
        update.SCATTER_OPERATION,
        update.VOCABULARY_OPERATION,
        gradient.OPERATION,
        rnc1.OPERATION,
        rnc1.CALL,
        *metrics.TIERS,
        metrics.SUITE,
        scatter.OPERATION,
        knn.OPERATION,
        knn.GRID_OPERATION,
        knn.ENGINES,
        entropy.OPERATION,
        mutual_information.OPERATION,
        mutual_information.GRID_OPERATION,
        mutual_information.ENGINES,
        plane.OPERATION,
        tracker_block.OPERATION,
        tracker_step.OPERATION,
        tracker_cost.MLP_OPERATION,
        tracker_cost.RESNET_OPERATION,
        tracker_cost.ALONE_OPERATION,
        replica_step.OPERATION,
        replica_step.ON_MNIST,
        log_point.OPERATION,
        all_reduce.OPERATION,
    )
}

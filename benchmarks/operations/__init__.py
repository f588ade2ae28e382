"""Every operation of ``ncfast bench``, one file each."""

from ncfast.benchmarks.operations import (
    class_moments,
    knn,
    mutual_information,
    plane,
    replica_step,
    tracker_step,
)
from ncfast.benchmarks.registry import Operation

_MODULES = (class_moments, knn, mutual_information, plane, tracker_step, replica_step)
OPERATIONS: dict[str, Operation] = {module.OPERATION.name: module.OPERATION for module in _MODULES}

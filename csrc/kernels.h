// What every instruction set has to provide.
#pragma once

#include "types.h"

namespace ncfast {

// Rows of one class, in the order they are to be taken.
struct Run {
    Matrix matrix;
    const std::int32_t* rows;        // `count` row numbers, relative to matrix.data
    std::int64_t count;
    const std::int32_t* rows_end;    // end of the row numbers worth prefetching after these
    bool scattered = true;           // over memory, so that no neighbour is read soon
};

using Accumulate = void (*)(const Run& run, ClassState& state, Norms& norms);

// Adds to sums[v] the square of <x - mean, vectors[v]> for every row x of the run.
// `buffer` holds kProjectionRows * cols doubles.
using Project = void (*)(const Run& run, const double* mean, const double* vectors,
                         std::int64_t num_vectors, double* buffer, double* sums);
constexpr int kProjectionRows = 4;

struct Kernels {
    const char* name;
    Accumulate accumulate[4];  // indexed by Dtype
    Project project[4];
};

}  // namespace ncfast

// What every instruction set has to provide.
#pragma once

#include "neighbors/types.h"
#include "products/products_types.h"
#include "summary/small_matrix_types.h"
#include "core/types.h"

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

// Where the deviations of a run go: panels as in products/packed_rows.h, `depth` rows in each.
struct Deviations {
    double* panels;  // null: they are not kept
    std::int64_t depth;
    std::int64_t row;  // of the first one
};

// A run of one class joins its state; `next_mean` belongs to the class that comes after it.
struct Joining {
    Run run;
    const double* next_mean;
    Deviations deviations;
};
using Join = void (*)(const Joining& of, ClassState& state, Norms& norms);

// Adds to sums[v] the square of <x - mean, vectors[v]> for every row x of the run.
// `buffer` holds kProjectionRows * cols doubles.
using Project = void (*)(const Run& run, const double* mean, const double* vectors,
                         std::int64_t num_vectors, double* buffer, double* sums);
constexpr int kProjectionRows = 4;

// A batch joins the running average of a class mean: row = weight * mean, running = keep * running +
// row, mean = (share * past + running) * scale.
struct MeanStep {
    std::int64_t cols;
    double weight, keep, share, scale;
};
using AverageMean = void (*)(const MeanStep& of, const double* past, double* row, double* running,
                          double* mean);
using SumSquares = double (*)(const void* data, std::int64_t count);

// Neighbours: see neighbors/sweep.h.
template <class C>
using Seek = void (*)(const Panels<C>& panels, Seeker<C>* queries, std::int64_t count);
template <class C>
using Count = void (*)(const Panels<C>& panels, Counter<C>* queries, std::int64_t count);
template <class C>
struct Sweep {
    int width;         // points side by side in a panel
    Seek<C> seek[2];   // Euclidean, maximum norm
    Count<C> count[2];
};

// The points of one leaf of a tree as queries: see neighbors/walk.h.
using WalkNearest = void (*)(const TreeView& tree, std::int64_t leaf, Seeker<double>* queries);
using WalkCount = void (*)(const TreeView& tree, std::int64_t leaf, const double* queries,
                           const double* limits, std::int64_t* counts);

struct Kernels {
    const char* name;
    Accumulate accumulate[4];  // indexed by Dtype
    Join join[4];
    Project project[4];
    AverageMean average_mean;
    SumSquares sum_squares[4];
    Sweep<float> sweep;
    Sweep<double> exact_sweep;
    WalkNearest walk_nearest[2];
    WalkCount walk_count[2];
    Products products;
    SmallMatrix small;
};

}  // namespace ncfast

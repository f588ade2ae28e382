// What every instruction set has to provide, and which one is in use.
#pragma once

#include "core/types.h"
#include "neighbors/search.h"
#include "products/second_pass.h"

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

// For summary/: see small_matrix.h.
struct SmallMatrix {
    int lanes;  // rows of a triangle are padded with zeros to a multiple of them
    // product (number, number) of the rows of two matrices (number, cols), which may be the same
    void (*row_products)(const double* left, const double* right, std::int64_t number,
                         std::int64_t cols, double* product);
    // R (number, stride), upper, of rows V (number, length) = R^T Q; overwrites V
    void (*triangle)(double* rows, std::int64_t number, std::int64_t length, double* out,
                     std::int64_t stride);
    // rotates every pair of rows to be orthogonal, in turn; whether all of them were
    bool (*sweep)(double* triangle, std::int64_t number, std::int64_t stride);
};

struct Kernels {
    const char* name;
    Accumulate accumulate[4];  // indexed by Dtype
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

// Those this CPU can run, best first.
struct UsableKernels {
    const Kernels* best_first[3];
    int number;

    const Kernels* const* begin() const { return best_first; }
    const Kernels* const* end() const { return best_first + number; }
};
UsableKernels usable_kernels();

const Kernels& kernels();            // those in use
bool use_kernels(const char* name);  // false: unknown, or this CPU cannot run it

}  // namespace ncfast

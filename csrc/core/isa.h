// The kernels that every instruction set provides, and the choice of a set at run time.
#pragma once

#include "core/types.h"
#include "neighbors/search.h"
#include "products/second_pass.h"

namespace ncfast {

// Rows of one class, in the order in which they are read.
struct Run {
    Matrix matrix;
    const std::int32_t* rows;        // `count` row numbers, relative to matrix.data
    std::int64_t count;
    const std::int32_t* rows_end;    // end of the row numbers to prefetch
    bool scattered = true;           // spread over memory, so that no adjacent row is read soon
};

// Adds the rows of a run to the state of their class and to the norms.
using Accumulate = void (*)(const Run& run, ClassState& state, Norms& norms);

// Where the deviations of a run go: panels as in PackedRows, of `depth` rows.
struct Deviations {
    double* panels;  // null: they are not kept
    std::int64_t depth;
    std::int64_t row;  // of the first deviation
};

// Adds the rows of a run to the state of their class one after another, in double.
struct Joining {
    Run run;
    const double* next_mean;  // of the class to come, to be prefetched
    Deviations deviations;
};
using Join = void (*)(const Joining& of, ClassState& state, Norms& norms);

// The gradients of rows: of row i, x * slope + shared row of its class, where the slope is that of
// its class plus norm_slope / |x|. `row` is the one row whose slope gains row_slope / |x|. Those of
// 16-bit features are (x - centre) * slope + rest + x * norm_slope / |x|.
struct RowGradients {
    Matrix feats;
    const double* slopes;  // (K + 1); the last class, here and below, is for labels out of range
    const double* shared;  // (K + 1, D); null for features of 16 bits
    const float* centres;  // (K + 1, D); null for the others
    const float* rests;    // likewise
    bool wide;             // of 16 bits: a factor may leave the range of float
    bool norms;            // whether norms are needed at all
    bool seeks_largest;    // whether the row of the largest norm is
    double norm_slope;
    std::int64_t row;  // -1: none
    double row_slope;
    bool past_caches;  // the result is larger than the caches
    bool whole_lines;  // that, and each of its rows is whole cache lines
    void* out;         // (N, D) in the dtype of the features, contiguous
};
// Rows in the order of their classes: what a class shares then stays near.
struct SortedRows {
    const std::int32_t* rows;     // relative to the first one
    const std::int32_t* classes;  // of each of these
    std::int64_t first, count;
};
struct LargestRow {
    double norm = -1;
    std::int64_t row = -1;  // the first row of that norm
};
constexpr std::int64_t kGradientRows = 4;  // at once
// Writes the gradients of the rows; notes the largest norm. `buffer` holds kGradientRows rows, each
// with two cache lines more, from the start of a line.
using Differentiate = void (*)(const RowGradients& of, const SortedRows& rows, void* buffer,
                               LargestRow& largest);

// Adds to sums[v] the square of <x - mean, vectors[v]> for every row x of the run.
// `buffer` holds kProjectionRows * cols doubles.
using Project = void (*)(const Run& run, const double* mean, const double* vectors,
                         std::int64_t num_vectors, double* buffer, double* sums);
constexpr int kProjectionRows = 4;

// Adds a batch to the running average of a class mean: row = weight * mean,
// running = keep * running + row, mean = (share * past + running) * scale.
struct MeanStep {
    std::int64_t cols;
    double weight, keep, share, scale;
};
using AverageMean = void (*)(const MeanStep& of, const double* past, double* row, double* running,
                          double* mean);
// The sum of the squares of `count` numbers.
using SumSquares = double (*)(const void* data, std::int64_t count);

// Scans of all points by a few queries, see neighbors/scan.h.
template <class C>
using Seek = void (*)(const Panels<C>& panels, Seeker<C>* queries, std::int64_t count);
template <class C>
using Count = void (*)(const Panels<C>& panels, Counter<C>* queries, std::int64_t count);
template <class C>
struct Scan {
    int width;         // points in a panel
    Seek<C> seek[2];   // Euclidean, maximum norm
    Count<C> count[2];
};

// Offers the points of two ranges of panels to each other. A panel of `left` meets those of `right`
// from its own number on, so that a pair comes once.
using SeekPeers = void (*)(const Panels<float>& left, const Panels<float>& right,
                           const Peers& peers);

// Walks through a tree with the points of one leaf as queries, see neighbors/walk.h.
using WalkNearest = void (*)(const TreeView& tree, std::int64_t leaf, Seeker<double>* queries);
using WalkCount = void (*)(const TreeView& tree, std::int64_t leaf, const double* queries,
                           const double* limits, std::int64_t* counts);

// Operations on a few long rows, see summary/small_matrix.h.
struct SmallMatrix {
    int lanes;  // the rows of a triangle are padded with zeros to a multiple of this
    // The products (number, number) of the rows of two matrices (number, cols), or of one.
    void (*row_products)(const double* left, const double* right, std::int64_t number,
                         std::int64_t cols, double* product);
    // The upper triangle R (number, stride) of the rows V (number, length) = R^T Q; overwrites V.
    void (*triangle)(double* rows, std::int64_t number, std::int64_t length, double* out,
                     std::int64_t stride);
    // Turns coordinates along the rows of Q into combinations of these, for all `rows` (number,
    // length); `mirrors` is what triangle left of its rows.
    void (*reflect_back)(const double* mirrors, std::int64_t number, std::int64_t length,
                         double* rows);
    // Rotates each pair of rows in turn, so that their first `width` columns become orthogonal. True
    // if all pairs were already.
    bool (*rotate_all)(double* rows, std::int64_t number, std::int64_t width, std::int64_t stride);
};

struct Kernels {
    const char* name;
    Accumulate accumulate[4];  // indexed by Dtype
    Join join[4];
    Differentiate differentiate[4];
    Project project[4];
    AverageMean average_mean;
    SumSquares sum_squares[4];
    Scan<float> scan;
    Scan<double> exact_scan;
    SeekPeers seek_peers[2];
    WalkNearest walk_nearest[2];
    WalkCount walk_count[2];
    Products products;
    SmallMatrix small;
};

// The kernels that this CPU can run, fastest first.
struct UsableKernels {
    const Kernels* best_first[3];
    int number;

    const Kernels* const* begin() const { return best_first; }
    const Kernels* const* end() const { return best_first + number; }
};
UsableKernels usable_kernels();

const Kernels& kernels();            // the kernels in use
bool use_kernels(const char* name);  // false if the name is unknown or this CPU cannot run them

}  // namespace ncfast

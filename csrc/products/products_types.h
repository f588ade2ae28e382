// The kernels behind second_pass.h that every instruction set has to provide.
#pragma once

#include "products/class_pairs_types.h"
#include "products/margins_types.h"

namespace ncfast {

using PackDeviations = void (*)(const Matrix& feats, const std::int64_t* labels,
                                const double* means, std::int64_t first, std::int64_t count,
                                std::int64_t depth, double* row, double* panels);
using Distances = void (*)(const Matrix& feats, const std::int64_t* labels, const double* means,
                           std::int64_t first, std::int64_t count, double* row, double* out);

struct Products {
    int panel;  // rows side by side in a packed operand
    PackDeviations pack_deviations[4];  // indexed by Dtype
    Distances distances[4];
    void (*add_gram)(const double* panels, std::int64_t depth, std::int64_t right, double* total,
                     std::int64_t cols);
    // pairs of rows first .. first + count with those after them; lowers nearest (padded)
    void (*pair_block)(const ClassMeans& of, std::int64_t first, std::int64_t count, PairSums& sums,
                       double* nearest);
    MarginKernels<float> margins;
    MarginKernels<double> exact_margins;
};

}  // namespace ncfast

// What needs the features again after the class means are known.
#pragma once

#include "products/class_pairs_types.h"
#include "products/margins_types.h"

namespace ncfast {

// total (D, D) = sum over all rows of the outer product of their deviation from the class mean.
// Labels are in range. The same bits for any number of threads.
void scatter(const Matrix& feats, const std::int64_t* labels, const double* means, double* total,
             int threads);

// out[i] = |x_i - mean of its class|
void own_distances(const Matrix& feats, const std::int64_t* labels, const double* means,
                   double* out, int threads);

struct MarginInput {
    std::int64_t number;
    std::int64_t cols;
    const double* means;    // (K, D)
    const double* centred;  // (K, D) means less a centre
    const double* variances;
    const std::int64_t* counts;
    const double* rows;  // (K, D) of an affine rule
    const double* bias;  // (K,) its bias, the centre's product with the rows added
};

// Everything about pairs of classes in one sweep, see MarginSums; without features (no rows) the
// projected sums are zero. Up to 512 classes products are in double, beyond in float around the
// centre. The same bits for any number of threads.
void margins(const Matrix& feats, const Labels& labels, const MarginInput& in,
             const MarginSums& out, int threads);

// Statistics over all pairs of classes with directions unit (K, D) and norms length, and the squared
// distance of each mean from the nearest other one. The same bits for any number of threads.
PairSums class_pairs(const double* unit, const double* length, const double* variance,
                     std::int64_t number, std::int64_t cols, double simplex, double* nearest,
                     int threads);

}  // namespace ncfast

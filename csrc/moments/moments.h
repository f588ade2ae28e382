// Class moments of a matrix, and the second pass for projections.
#pragma once

#include "core/types.h"

namespace ncfast {

// Preallocated by the caller, every entry is written.
struct Moments {
    std::int64_t* counts;  // (K,)
    double* means;         // (K, D)
    double* within_ss;     // (K,)
    double* norm_sum;      // ()
    double* norm_max;      // ()
};

// The same bits for any number of threads.
void class_moments(const Matrix& feats, const Labels& labels, std::int64_t num_classes,
                   const Moments& out, int threads);

// sums[v] = sum over all rows of <x - mean of its class, vectors[v]>^2; vectors is (V, D).
void projected_ss(const Matrix& feats, const Labels& labels, std::int64_t num_classes,
                  const double* means, const double* vectors, std::int64_t num_vectors,
                  double* sums, int threads);

}  // namespace ncfast

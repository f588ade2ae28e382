// Class moments of a matrix in one pass, a batch that joins them in place, and the merge of two states
// of a class.
#pragma once

#include <algorithm>

#include "core/types.h"
#include "moments/rows.h"

namespace ncfast {

// Memory of the caller for the results; every entry is written.
struct Moments {
    std::int64_t* counts;  // (K,)
    double* means;         // (K, D)
    double* within_ss;     // (K,)
    double* norm_sum;      // ()
    double* norm_max;      // ()
};

// Computes the moments of all classes. A label out of range makes every floating-point result NaN.
// The bits do not depend on the number of threads.
void class_moments(const Matrix& feats, const Labels& labels, std::int64_t num_classes,
                   const Moments& out, int threads);

// Merges the rows of the batch that count into `state`, and the products of their deviations into
// `scatter` (D, D); adds the number of the other rows to `left_out`. The last two may be null.
// Returns -1, or the first row that has a label out of range: then nothing is written. The same
// bits for any number of threads.
std::int64_t update_moments(const Batch& batch, std::int64_t num_classes, const Moments& state,
                            std::int64_t* left_out, double* scatter, int threads);

// The gradient of a loss with respect to the floating-point moments; null is zero.
struct MomentGradients {
    const double* means;      // (K, D)
    const double* within_ss;  // (K,)
    const double* norm_sum;   // ()
    const double* norm_max;   // ()
};

// Writes the gradient of the loss with respect to the features, (N, D) in their dtype, contiguous:
// g_means[c] / n_c + 2 (x - mu_c) g_ss[c] + g_norm_sum x / |x|, and g_norm_max x / |x| for the first
// row of the largest norm. A row of zeros has no direction: the last two terms are zero. A row whose
// label is out of range gets NaN.
void moment_gradients(const Matrix& feats, const Labels& labels, std::int64_t num_classes,
                      const std::int64_t* counts, const double* means, const MomentGradients& of,
                      void* out, int threads);

// Merges two disjoint parts of a class (Chan, Golub & LeVeque 1983). `from` has rows.
inline void merge(ClassState& into, const ClassState& from, std::int64_t cols) {
    const auto total = static_cast<double>(into.count + from.count);
    const double share = static_cast<double>(from.count) / total;
    if (into.count == 0) {
        std::copy(from.mean, from.mean + cols, into.mean);
        into.within_ss = from.within_ss;
    } else {
        double delta_ss = 0;
        for (std::int64_t d = 0; d < cols; ++d) {
            const double delta = from.mean[d] - into.mean[d];
            delta_ss += delta * delta;
            into.mean[d] += delta * share;
        }
        into.within_ss += from.within_ss + static_cast<double>(into.count) * share * delta_ss;
    }
    into.count += from.count;
}

}  // namespace ncfast

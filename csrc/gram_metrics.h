// The metrics that follow from the class weights and the products of the class means, for many
// states at once. Their definitions, and their reference, are in ncfast/metrics/.
#pragma once

#include "types.h"

namespace ncfast {

// Rows of doubles, `stride` apart: weights (K), means (K, D), within_ss (K), norm_sum, norm_max.
// The weights are the counts, as the bits of int64 or as doubles.
struct States {
    const double* data;
    std::int64_t number;
    std::int64_t stride;
    std::int64_t classes;
    std::int64_t cols;
    bool integer_weights;
};

constexpr int kMomentMetrics = 2;
constexpr int kPairMetrics = 20;
constexpr int kSpectralMetrics = 4;
constexpr int kGramMetrics = kMomentMetrics + kPairMetrics + kSpectralMetrics;

// What the metrics of a call look at, beyond sums of the moments.
struct Wanted {
    bool pairs;            // products of the means
    bool spectrum;         // singular values of the means
    bool centred_spectrum;
};

// Fills (number, kGramMetrics) in the order of ncfast.backends.states.GRAM_METRICS; what was not
// wanted is NaN.
void gram_metrics(const States& states, Wanted wanted, double* out);

}  // namespace ncfast

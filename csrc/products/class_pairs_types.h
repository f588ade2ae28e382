// Quantities of a pair of class means and what is gathered of them.
#pragma once

#include "core/types.h"

namespace ncfast {

// Those of which the mean is taken, in order: cdnv, abs(cos - simplex), distance, log, Riesz.
constexpr int kPairMeans = 5;
constexpr int kCdnv = 0, kAngle = 1;
constexpr int kPairMaxima = 2;  // cdnv, abs(cos)

struct ClassMeans {
    std::int64_t number;
    std::int64_t cols;
    const double* unit;      // (K, D) directions
    const double* panels;    // the same, see products.h
    const double* length;    // padded to whole panels, as is
    const double* variance;
    double simplex;  // cosine of a simplex
};

struct PairSums {
    double count;
    double mean[kPairMeans];
    double squares[kPairMeans];  // of deviations from the mean, summed
    double largest[kPairMaxima];
};

}  // namespace ncfast

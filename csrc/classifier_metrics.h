// The metrics of a linear classifier beside the class means, and of features from elsewhere. Their
// definitions, and their reference, are in ncfast/metrics/.
#pragma once

#include <cstdint>

namespace ncfast {

struct Classifier {
    const double* weight;   // (K, D), or none
    const double* bias;     // (K,), or none
    const double* outside;  // mean of features from elsewhere (D,), or none
    bool products;          // whether what needs products of rows is wanted
};

constexpr int kClassifierMetrics = 12;

// Fills `out` in the order of ncfast.backends.classifier.CLASSIFIER_METRICS for one row of packed
// moments, see States in gram_metrics.h; NaN where an input is missing.
void classifier_metrics(const double* state, std::int64_t classes, std::int64_t cols,
                        bool integer_weights, const Classifier& classifier, double* out);

}  // namespace ncfast

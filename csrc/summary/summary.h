// Primitives of many states: traces, norms of Gram matrices, pair statistics, singular values, and
// the products of a classifier with the class means.
//
// A state is the class moments at one log point. The metrics in ncfast/metrics/ are arithmetic on
// the primitives. The reference is ncfast/ops/summary.py.
#pragma once

#include <string>
#include <vector>

#include "core/types.h"

namespace ncfast {

// One array of each of many states: the array of state i begins at data + i * stride.
struct Part {
    const double* data;
    std::int64_t stride;
    const double* operator[](std::int64_t i) const { return data + i * stride; }
};

struct States {
    std::int64_t number;
    std::int64_t classes;
    std::int64_t cols;
    bool integer_counts;  // the counts (K) are int64, else double
    Part counts, means, within_ss, norm_sum, norm_max;
};

// The primitives to compute besides the traces; the fields of the others are NaN.
struct Parts {
    bool products;          // of the means with each other
    bool pairs;             // statistics over pairs of means; includes the products
    bool spectrum;          // condition number of the means
    bool centred_spectrum;  // condition number and ranks of the centred means
};

// The names of the fields of summarise, in order.
const std::vector<std::string>& summary_names();

constexpr std::int64_t kTraces = 7;  // fields that are always computed, the first ones

// Writes out (number, fields).
void summarise(const States& states, Parts parts, double* out);

// Writes out (number, R, 1 + D) for at most D classes: the R = K singular values of the centred means,
// largest first, then their right singular vectors.
void principal_axes(const States& states, double* out);

// Sums over principal axes r of v^T Sigma_W v / sigma_r^2, with v the direction of the axis.
struct AxisSums {
    double significant;  // over axes whose sigma_r^2 is above the rank cutoff; NaN without one
    double leading;      // over the first P - 1; NaN if P < 2
};

// Computes the sums for the features whose class moments the first state holds; at most D classes.
AxisSums axis_sums(const States& states, const Matrix& feats, const Labels& labels, int threads);

// The names of the fields of classifier_summary, in order.
const std::vector<std::string>& classifier_names();

// Writes out (number, fields) for the classifier of each state, whose rows (K, D) are `weights` and
// whose biases (K) may be null. Fields are NaN with invalid moments; all but the norm of the logits
// also with fewer than two present classes, that one without biases, and the fields of products of
// rows if `products` is false.
void classifier_summary(const States& states, Part weights, Part biases, bool products,
                        double* out);

}  // namespace ncfast

// Primitives of the class moments of many states: traces, norms of Gram matrices, statistics over
// pairs of class means, singular values. Metrics are arithmetic on them, in ncfast/metrics/; the
// reference of the primitives is ncfast/ops/summary.py.
#pragma once

#include <string>
#include <vector>

#include "core/types.h"

namespace ncfast {

// One part of many states: that of state i begins at data + i * stride.
struct Part {
    const double* data;
    std::int64_t stride;
    const double* operator[](std::int64_t i) const { return data + i * stride; }
};

struct States {
    std::int64_t number;
    std::int64_t classes;
    std::int64_t cols;
    bool integer_counts;  // the counts (K) are int64; otherwise weights in double
    Part counts, means, within_ss, norm_sum, norm_max;
};

// What to compute of each state beside the traces; what is left out is NaN.
struct Parts {
    bool products;  // of the means with each other
    bool pairs;     // statistics over pairs of means; with them the products are there
    bool spectrum;  // condition number of the means
    bool centred_spectrum;  // condition number and singular values of the centred means
};

// The names of the fields of a state, in order.
const std::vector<std::string>& summary_names();

// Fills out (number, fields + R): the fields, then R = min(K, D) singular values of the centred
// means, largest first. One pass over the states, whose moments are read once.
void summarise(const States& states, Parts parts, double* out);

const std::vector<std::string>& classifier_names();

// Fills out (number, fields) for the rows (K, D) of the classifier of each state; the fields that
// need products of rows are NaN unless they are wanted.
void classifier_summary(const States& states, Part weights, bool products, double* out);

}  // namespace ncfast

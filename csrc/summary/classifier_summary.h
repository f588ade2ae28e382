// Primitives of a linear classifier beside the class means, for many states at once: what NC3
// needs, NaN with fewer than two present classes or where the moments are invalid. The reference is
// ncfast/ops/summary.py.
#pragma once

#include "summary/summary.h"

namespace ncfast {

const std::vector<std::string>& classifier_names();

// Fills out (number, fields) for the rows (K, D) of the classifier of each state; the fields that
// need products of rows are NaN unless they are wanted.
void classifier_summary(const States& states, Part weights, bool products, double* out);

}  // namespace ncfast

// A batch joins class moments in place: only the classes that it holds are read and written.
#pragma once

#include "moments/moments.h"
#include "moments/present.h"

namespace ncfast {

// Merges the rows of the batch that count into `state`, and the products of their deviations into
// `scatter` (D, D); adds the number of the other rows to `left_out`. The last two may be null.
// Returns -1, or the first row that has a label out of range: then nothing is written. The same
// bits for any number of threads.
std::int64_t update_moments(const Batch& batch, std::int64_t num_classes, const Moments& state,
                            std::int64_t* left_out, double* scatter, int threads);

}  // namespace ncfast

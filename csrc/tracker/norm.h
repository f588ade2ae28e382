// The norm of all numbers of many tensors.
#pragma once

#include <vector>

#include "core/types.h"

namespace ncfast {

// Numbers that lie side by side.
struct Span {
    const void* data;
    Dtype dtype;
    std::int64_t count;
};

// sqrt of the sum of the squares, accumulated in double. The same bits for any number of threads.
double norm(const std::vector<Span>& spans, int threads);

// Bytes of all of them.
std::int64_t bytes_of(const std::vector<Span>& spans);

}  // namespace ncfast

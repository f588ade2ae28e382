// The norm of all numbers in many tensors.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/isa.h"
#include "core/pool.h"
#include "core/types.h"
#include "moments/rows.h"

namespace ncfast {

// Numbers in adjacent memory.
struct Span {
    const void* data;
    Dtype dtype;
    std::int64_t count;
};

// Numbers per partial sum: few enough that its rounding stays below 1e-13 of it, many enough to
// outweigh handing over a task.
constexpr std::int64_t kNormBlock = 1 << 16;

// Cuts the spans into blocks of at most kNormBlock numbers.
inline std::vector<Span> blocks_of(const std::vector<Span>& spans) {
    std::vector<Span> blocks;
    blocks.reserve(spans.size());
    for (const Span& span : spans) {
        const char* data = static_cast<const char*>(span.data);
        const auto size = static_cast<std::int64_t>(size_of(span.dtype));
        for (std::int64_t i = 0; i < span.count; i += kNormBlock)
            blocks.push_back({data + i * size, span.dtype, std::min(kNormBlock, span.count - i)});
    }
    return blocks;
}

// A compensated sum (Neumaier 1974), whose error does not grow with the number of parts.
inline double compensated_sum(const std::vector<double>& parts) {
    double sum = 0, lost = 0;
    for (const double part : parts) {
        const double next = sum + part;
        lost += sum >= part ? (sum - next) + part : (part - next) + sum;
        sum = next;
    }
    return std::isfinite(sum) ? sum + lost : sum;
}

inline std::int64_t bytes_of(const std::vector<Span>& spans) {
    std::int64_t bytes = 0;
    for (const Span& span : spans) bytes += span.count * static_cast<std::int64_t>(size_of(span.dtype));
    return bytes;
}

// The square root of the sum of squares, accumulated in double. The bits do not depend on the
// number of threads.
inline double norm(const std::vector<Span>& spans, int threads) {
    const std::vector<Span> blocks = blocks_of(spans);
    std::vector<double> parts(blocks.size());
    // Waking a thread takes as long as reading a megabyte.
    const int workers = bytes_of(spans) < 4 * kUnitBytes ? 1 : threads;
    const Kernels& use = kernels();
    parallel_for(static_cast<std::int64_t>(blocks.size()), workers, [&](std::int64_t i) {
        const Span& block = blocks[static_cast<std::size_t>(i)];
        parts[static_cast<std::size_t>(i)] =
            use.sum_squares[static_cast<int>(block.dtype)](block.data, block.count);
    });
    return std::sqrt(compensated_sum(parts));
}

}  // namespace ncfast

#include <algorithm>
#include <cfloat>
#include <mutex>
#include <vector>

#include "core/isa.h"
#include "core/pool.h"
#include "products/second_pass.h"

namespace ncfast {
namespace {

constexpr std::int64_t kBlock = 64;  // rows of one task: what it sums stays a pilot's

void merge(const PairSums& part, PairSums& all) {
    if (part.count == 0) return;
    const double total = all.count + part.count;
    for (int q = 0; q < kPairMeans; ++q) {
        const double step = part.mean[q] - all.mean[q];
        all.squares[q] += part.squares[q] + step * step * all.count * (part.count / total);
        all.mean[q] += step * (part.count / total);
    }
    for (int q = 0; q < kPairMaxima; ++q) all.largest[q] = std::max(all.largest[q], part.largest[q]);
    all.count = total;
}

}  // namespace

PairSums class_pairs(const double* unit, const double* length, const double* variance,
                     std::int64_t number, std::int64_t cols, double simplex, double* nearest,
                     int threads) {
    const Products& use = kernels().products;
    const std::int64_t padded = (number + use.panel - 1) / use.panel * use.panel;
    std::vector<double> panels(static_cast<std::size_t>(padded * cols));
    for (std::int64_t k = 0; k < number; ++k)
        for (std::int64_t d = 0; d < cols; ++d)
            panels[static_cast<std::size_t>(k / use.panel * use.panel * cols + d * use.panel +
                                            k % use.panel)] = unit[k * cols + d];
    std::vector<double> lengths(length, length + number), variances(variance, variance + number);
    lengths.resize(static_cast<std::size_t>(padded), 1);
    variances.resize(static_cast<std::size_t>(padded));
    const ClassMeans of{number, cols, unit, panels.data(), lengths.data(), variances.data(), simplex};
    const std::int64_t tasks = (number + kBlock - 1) / kBlock;
    std::vector<PairSums> parts(static_cast<std::size_t>(tasks));
    std::vector<double> smallest(static_cast<std::size_t>(padded), DBL_MAX);
    std::mutex mutex;
    parallel_for(tasks, threads, [&](std::int64_t task) {
        std::vector<double> own(static_cast<std::size_t>(padded), DBL_MAX);
        use.pair_block(of, task * kBlock, std::min(kBlock, number - task * kBlock),
                       parts[static_cast<std::size_t>(task)], own.data());
        const std::lock_guard<std::mutex> lock(mutex);  // a minimum, whatever the order
        for (std::size_t k = 0; k < own.size(); ++k) smallest[k] = std::min(smallest[k], own[k]);
    });
    PairSums all{};
    for (const PairSums& part : parts) merge(part, all);
    std::copy_n(smallest.begin(), number, nearest);
    return all;
}

}  // namespace ncfast

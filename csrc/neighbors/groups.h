// Groups of rows as tasks: large ones one after another with all threads, small ones side by side.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "neighbors/search.h"
#include "core/pool.h"

namespace ncfast {

// Builds an Index of every group, index(points, first, last, threads), and calls
// work(index, from, to) for pieces of its rows.
template <class Index, class Work>
void for_each_group(const PointSet& points, std::int64_t piece, int threads, Work work) {
    constexpr std::int64_t kSmallGroup = 256;
    const auto whole = [&](std::int64_t group, int workers) {
        const std::int64_t first = points.offsets[group], last = points.offsets[group + 1];
        if (first == last) return;
        const Index index(points, first, last, workers);
        const std::int64_t rows = last - first;
        parallel_for((rows + piece - 1) / piece, workers, [&](std::int64_t task) {
            work(index, task * piece, std::min(rows, (task + 1) * piece));
        });
    };
    std::vector<std::int64_t> small;
    for (std::int64_t group = 0; group < points.num_groups; ++group) {
        const std::int64_t rows = points.offsets[group + 1] - points.offsets[group];
        if (rows <= kSmallGroup) small.push_back(group);
        else whole(group, threads);
    }
    const auto number = static_cast<std::int64_t>(small.size());
    if (number == 1) whole(small[0], threads);
    else parallel_for(number, threads, [&](std::int64_t i) { whole(small[i], 1); });
}

}  // namespace ncfast

// The path for few classes: lanes read contiguous rows and keep a state of every class each.
//
// A lane sorts its rows by class in blocks. The rows of a block stay within the page tables that a
// core caches and within the streams that its hardware prefetchers follow.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "core/isa.h"
#include "moments/plan.h"

namespace ncfast {

constexpr std::int64_t kBlockBytes = 8 << 20;
constexpr std::int64_t kBlockRows = 1 << 18;
constexpr std::int64_t kLaneBytes = 1 << 20;      // of features: outweighs handing over a task
constexpr std::int64_t kLaneStates = 24 << 20;    // bytes, of all lanes
constexpr std::int64_t kMostLanes = 16;           // each lane costs page faults for its states
constexpr std::int64_t kFewestLanes = 8;          // fewer would leave threads without work
constexpr std::int64_t kRowsOfClass = 10;         // per block: fewer rows do not pay for a fold

// The number of lanes and their blocks: functions of the shapes alone, so that results do not
// depend on the number of threads.
struct Lanes {
    std::int64_t number;
    std::int64_t block_rows;

    Lanes(const Matrix& feats, std::int64_t num_classes) {
        const auto row_bytes = static_cast<std::int64_t>(size_of(feats.dtype)) * feats.cols;
        const std::int64_t bytes = row_bytes * feats.rows;
        const std::int64_t state_bytes = num_classes * feats.cols * std::int64_t{sizeof(double)};
        block_rows = std::clamp<std::int64_t>(kBlockBytes / row_bytes, 1, kBlockRows);
        // Writing and merging the states once must take little time next to reading the features.
        number = std::min({kMostLanes, bytes / kLaneBytes, bytes / 64 / state_bytes,
                           kLaneStates / state_bytes});
        if (num_classes * kRowsOfClass > block_rows) number = 0;
    }
    bool worthwhile() const { return number >= kFewestLanes; }
};

// The moments of all classes over the rows of one lane.
struct Lane {
    std::vector<ClassState> classes;
    Norms norms;
    bool valid = true;
};

// Adds the rows [first, last) to `lane`. Its states already point to the memory of their means.
inline void add_to_lane(const Matrix& feats, const Labels& labels, std::int64_t first,
                        std::int64_t last, std::int64_t block_rows, Lane& lane) {
    const Accumulate accumulate = kernels().accumulate[static_cast<int>(feats.dtype)];
    const auto row_bytes = feats.stride * static_cast<std::int64_t>(size_of(feats.dtype));
    const auto num_classes = static_cast<std::int64_t>(lane.classes.size());
    Plan plan;
    for (; first < last; first += block_rows) {
        const std::int64_t count = std::min(block_rows, last - first);
        sort_rows(labels, first, count, num_classes, 1, plan);
        lane.valid = lane.valid && plan.valid;
        Matrix block = feats;
        block.data = static_cast<const char*>(feats.data) + first * row_bytes;
        const std::int32_t* rows = plan.rows.get();
        for (std::int64_t c = 0; c < num_classes; ++c) {
            const std::int32_t begin = plan.offsets[c], end = plan.offsets[c + 1];
            if (begin < end)
                accumulate({block, rows + begin, end - begin, rows + count, false},
                           lane.classes[c], lane.norms);
        }
    }
}

}  // namespace ncfast

// Rows sorted by class, and how they are cut into units of work.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/types.h"

namespace ncfast {

struct Plan {
    std::unique_ptr<std::int32_t[]> rows;  // row numbers relative to the first, class after class
    std::unique_ptr<std::int32_t[]> classes;  // of each row, in the order they came in
    std::vector<std::int32_t> offsets;     // class c owns rows[offsets[c] .. offsets[c + 1])
    bool valid = true;                     // false: a label was out of range and went to class 0

    std::int32_t size() const { return offsets.back(); }
};

// Sorts `count` rows from row `first` on; reuses the memory of `plan`. count < 2^31.
void sort_rows(const Labels& labels, std::int64_t first, std::int64_t count,
               std::int64_t num_classes, int threads, Plan& plan);

constexpr std::int64_t kUnitBytes = 1 << 20;     // read and written: outweighs a hand-over
constexpr std::int64_t kPartialBytes = 1 << 24;  // for the classes that units share
constexpr std::int64_t kMaxUnits = 128;

struct Units {
    std::int64_t rows;
    std::int64_t rows_each;

    // The classes' means are written once; spread over the rows, that is a part of each.
    Units(const Matrix& feats, std::int64_t count, std::int64_t num_classes) : rows(count) {
        const std::int64_t mean_bytes = feats.cols * std::int64_t{sizeof(double)};
        const auto row_bytes = static_cast<std::int64_t>(size_of(feats.dtype)) * feats.cols +
                               mean_bytes * std::min(num_classes, count) / count;
        const std::int64_t most = std::clamp<std::int64_t>(
            kPartialBytes / (2 * mean_bytes), 1, kMaxUnits);
        rows_each = std::max(kUnitBytes / row_bytes + 1, (rows + most - 1) / most);
    }

    std::int64_t number() const { return (rows + rows_each - 1) / rows_each; }
    std::int64_t begin(std::int64_t unit) const { return unit * rows_each; }
    std::int64_t end(std::int64_t unit) const { return std::min(rows, (unit + 1) * rows_each); }
    // waking a thread takes as long as a few hundred KB of features
    int threads(int most) const { return number() < 4 ? 1 : most; }
};

// Rows per plan: bounds the memory of the row numbers, and keeps the gather within the reach of
// the page tables that caches hold.
inline std::int64_t rows_per_plan(const Matrix& feats, std::int64_t num_classes) {
    const auto row_bytes = static_cast<std::int64_t>(size_of(feats.dtype)) * feats.cols;
    const std::int64_t local = std::max((std::int64_t{1} << 30) / row_bytes, 64 * num_classes);
    return std::clamp<std::int64_t>(local, 1 << 16, 1 << 22);
}

// Calls visit(class, first, last) for the classes that have rows in positions [first, last).
template <class Visit>
void for_each_segment(const Plan& plan, std::int64_t first, std::int64_t last, Visit visit) {
    const auto begin = plan.offsets.begin();
    // the last class that starts at or before `first` and is not empty there
    auto c = std::upper_bound(begin, plan.offsets.end(), static_cast<std::int32_t>(first)) - begin - 1;
    for (; first < last; ++c) {
        const std::int64_t end = std::min<std::int64_t>(last, plan.offsets[c + 1]);
        if (end > first) visit(c, first, end);
        first = std::max(first, end);
    }
}

}  // namespace ncfast

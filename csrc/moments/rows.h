// Sorts row numbers by class: over all classes, in parallel, or over the classes of a batch alone.
//
// Units of work depend on the shapes alone, so that results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "core/types.h"

namespace ncfast {

// ---- over all classes ----

// The row numbers of a block of features, sorted by class; equal labels keep their order.
struct Plan {
    std::unique_ptr<std::int32_t[]> rows;  // relative to the first row, class after class
    std::unique_ptr<std::int32_t[]> classes;  // of each row, in the original order
    std::vector<std::int32_t> offsets;     // class c owns rows[offsets[c] .. offsets[c + 1])
    bool valid = true;                     // false: a label was out of range and went to class 0

    std::int32_t size() const { return offsets.back(); }
};

// Sorts the `count` < 2^31 rows from row `first` on by counting; reuses the memory of `plan`.
void sort_rows(const Labels& labels, std::int64_t first, std::int64_t count,
               std::int64_t num_classes, int threads, Plan& plan);

constexpr std::int64_t kUnitBytes = 1 << 20;     // read and written: outweighs handing over a task
constexpr std::int64_t kPartialBytes = 1 << 24;  // of means of classes that units share
constexpr std::int64_t kMaxUnits = 128;

// Ranges of sorted rows, each of which one thread processes.
struct Units {
    std::int64_t rows;
    std::int64_t rows_each;

    // A row costs its features and its share of writing the class means.
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
    // Waking a thread takes as long as reading a few hundred KB of features.
    int threads(int most) const { return number() < 4 ? 1 : most; }
};

// The number of rows of one plan. It bounds the memory of the row numbers, and the gathered rows
// stay within the page tables that caches hold.
inline std::int64_t rows_per_plan(const Matrix& feats, std::int64_t num_classes) {
    const auto row_bytes = static_cast<std::int64_t>(size_of(feats.dtype)) * feats.cols;
    const std::int64_t local = std::max((std::int64_t{1} << 30) / row_bytes, 64 * num_classes);
    return std::clamp<std::int64_t>(local, 1 << 16, 1 << 22);
}

// Calls visit(class, first, last) for each class with rows at the positions [first, last).
template <class Visit>
void for_each_run(const Plan& plan, std::int64_t first, std::int64_t last, Visit visit) {
    const auto begin = plan.offsets.begin();
    // The last class that starts at or before `first`; it has a row there.
    auto c = std::upper_bound(begin, plan.offsets.end(), static_cast<std::int32_t>(first)) - begin - 1;
    for (; first < last; ++c) {
        const std::int64_t end = std::min<std::int64_t>(last, plan.offsets[c + 1]);
        if (end > first) visit(c, first, end);
        first = std::max(first, end);
    }
}

// ---- over the classes of a batch, at a cost that does not depend on the number of classes ----

// Features with their labels. The mask and the ignored label leave rows out.
struct Batch {
    Matrix feats;
    Labels labels;
    const std::uint8_t* mask;  // null, or 0 in rows left out
    std::int64_t mask_stride;
    std::optional<std::int64_t> ignored;
};

// The first row that is not left out and has a label outside 0..num_classes - 1, or -1.
std::int64_t first_invalid_row(const Batch& batch, std::int64_t num_classes);

// The classes of a block of rows in the order of their first rows. An object keeps its memory from
// one block to the next: 4 bytes for each class of the state and 8 for each row.
class Present {
public:
    // Sorts `count` < 2^31 rows from row `first` on.
    void sort(const Batch& batch, std::int64_t first, std::int64_t count, std::int64_t num_classes);

    std::int64_t number() const { return static_cast<std::int64_t>(classes.size()); }
    std::int64_t size() const { return offsets[classes.size()]; }

    std::vector<std::int64_t> classes;
    std::vector<std::int32_t> offsets;  // classes[p] owns rows[offsets[p] .. offsets[p + 1])
    std::vector<std::int32_t> rows;     // relative to the first one
    std::int64_t left_out = 0;
    bool valid = true;  // false: a label out of range, which another thread wrote

private:
    template <class L>
    void find(const L* labels, const Batch& batch, std::int64_t first, std::int64_t count,
              std::int64_t num_classes);
    std::int32_t position_of(std::int64_t label);

    std::vector<std::int32_t> position_;  // of a class in `classes`; anything for the others
    std::vector<std::int32_t> found_;     // position of each row's class; -1 for a row left out
};

}  // namespace ncfast

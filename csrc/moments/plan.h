// A stable counting sort of row numbers by label.
#pragma once

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

}  // namespace ncfast

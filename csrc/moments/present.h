// Sorts the rows of a batch by class, at a cost that does not depend on the number of classes.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/types.h"

namespace ncfast {

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

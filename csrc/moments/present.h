// The rows of a batch sorted by class, at a cost that does not depend on the number of classes.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/types.h"

namespace ncfast {

// Features with their labels. A row counts unless the mask or the ignored label leaves it out.
struct Batch {
    Matrix feats;  // fewer than 2^31 rows
    Labels labels;
    const std::uint8_t* mask;  // null, or zero in rows left out
    std::int64_t mask_stride;
    std::optional<std::int64_t> ignored;
};

// The classes of a batch in the order of their first rows. One object serves many batches and keeps
// its memory: 4 bytes for each class of the state and about 16 for each row.
class Present {
public:
    // False where a row that counts has a label outside 0..num_classes - 1: `invalid_row`.
    bool sort(const Batch& batch, std::int64_t num_classes);

    std::int64_t number() const { return static_cast<std::int64_t>(classes.size()); }
    std::int64_t size() const { return offsets[classes.size()]; }

    std::vector<std::int64_t> classes;
    std::vector<std::int32_t> offsets;  // classes[p] owns rows[offsets[p] .. offsets[p + 1])
    std::vector<std::int32_t> rows;
    std::int64_t skipped = 0;  // rows that do not count
    std::int64_t invalid_row = -1;

private:
    template <class L>
    bool find(const L* labels, const Batch& batch, std::int64_t num_classes);
    std::int32_t position_of(std::int64_t label);

    std::vector<std::int32_t> position_;  // of a class in `classes`; anything for the others
    std::vector<std::int32_t> found_;     // position of each row's class; -1 for a row left out
};

}  // namespace ncfast

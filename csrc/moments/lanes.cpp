#include "moments/lanes.h"

#include "core/isa.h"

namespace ncfast {

void add_to_lane(const Matrix& feats, const Labels& labels, std::int64_t first, std::int64_t last,
                 std::int64_t block_rows, Lane& lane) {
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

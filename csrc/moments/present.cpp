// Sorts the rows of a batch by the classes in it.
#include "moments/present.h"

#include <cstddef>

namespace ncfast {
namespace {

constexpr std::int64_t kLeftOut = -1, kInvalid = -2;

// The class of row i, kLeftOut or kInvalid. A label is read once because another thread may write
// to it meanwhile.
template <class L>
std::int64_t class_of(const L* labels, const Batch& batch, std::int64_t i,
                      std::int64_t num_classes) {
    if (batch.mask != nullptr && batch.mask[i * batch.mask_stride] == 0) return kLeftOut;
    const auto label = static_cast<std::int64_t>(
        __atomic_load_n(labels + i * batch.labels.stride, __ATOMIC_RELAXED));
    if (label == batch.ignored) return kLeftOut;
    return label >= 0 && label < num_classes ? label : kInvalid;
}

}  // namespace

std::int64_t first_invalid_row(const Batch& batch, std::int64_t num_classes) {
    return visit(batch.labels, [&](auto* labels) {
        for (std::int64_t i = 0; i < batch.feats.rows; ++i)
            if (class_of(labels, batch, i, num_classes) == kInvalid) return i;
        return std::int64_t{-1};
    });
}

// A class is present if its entry of position_ points at an entry of `classes` that points back (a
// sparse set, Briggs & Torczon 1993). So nothing is cleared between blocks.
std::int32_t Present::position_of(std::int64_t label) {
    const auto at = static_cast<std::size_t>(position_[label]);
    if (at < classes.size() && classes[at] == label) return static_cast<std::int32_t>(at);
    classes.push_back(label);
    offsets.push_back(0);
    return position_[label] = static_cast<std::int32_t>(classes.size() - 1);
}

template <class L>
void Present::find(const L* labels, const Batch& batch, std::int64_t first, std::int64_t count,
                   std::int64_t num_classes) {
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t label = class_of(labels, batch, first + i, num_classes);
        valid = valid && label != kInvalid;
        left_out += label == kLeftOut;
        found_[i] = label < 0 ? -1 : position_of(label);
        if (label >= 0) ++offsets[found_[i] + 2];
    }
}

void Present::sort(const Batch& batch, std::int64_t first, std::int64_t count,
                   std::int64_t num_classes) {
    if (position_.size() < static_cast<std::size_t>(num_classes)) position_.resize(num_classes);
    if (found_.size() < static_cast<std::size_t>(count)) found_.resize(count), rows.resize(count);
    classes.clear();
    offsets.assign(2, 0);
    left_out = 0;
    valid = true;
    visit(batch.labels, [&](auto* labels) { find(labels, batch, first, count, num_classes); });
    // offsets[p + 1] is the place of the next row of class p, and in the end where the class ends
    for (std::size_t p = 2; p < offsets.size(); ++p) offsets[p] += offsets[p - 1];
    for (std::int64_t i = 0; i < count; ++i)
        if (found_[i] >= 0) rows[offsets[found_[i] + 1]++] = static_cast<std::int32_t>(i);
}

}  // namespace ncfast

// Sorts the rows of a batch by the classes in it.
#include "moments/present.h"

#include <cstddef>

namespace ncfast {

// An entry of position_ holds where it points at a class that points back (a sparse set, Briggs &
// Torczon 1993): the array needs no clearing between batches.
std::int32_t Present::position_of(std::int64_t label) {
    const auto at = static_cast<std::size_t>(position_[label]);
    if (at < classes.size() && classes[at] == label) return static_cast<std::int32_t>(at);
    classes.push_back(label);
    offsets.push_back(0);
    return position_[label] = static_cast<std::int32_t>(classes.size() - 1);
}

// A label is read once: another thread may write to it meanwhile.
template <class L>
bool Present::find(const L* labels, const Batch& batch, std::int64_t num_classes) {
    for (std::int64_t i = 0; i < batch.feats.rows; ++i) {
        const auto label = static_cast<std::int64_t>(
            __atomic_load_n(labels + i * batch.labels.stride, __ATOMIC_RELAXED));
        const bool left_out = batch.mask != nullptr && batch.mask[i * batch.mask_stride] == 0;
        found_[i] = -1;
        if (left_out || label == batch.ignored) {
            ++skipped;
        } else if (static_cast<std::uint64_t>(label) < static_cast<std::uint64_t>(num_classes)) {
            found_[i] = position_of(label);
            ++offsets[found_[i] + 2];
        } else {
            invalid_row = i;
            return false;
        }
    }
    return true;
}

bool Present::sort(const Batch& batch, std::int64_t num_classes) {
    const auto count = static_cast<std::size_t>(batch.feats.rows);
    if (position_.size() < static_cast<std::size_t>(num_classes)) position_.resize(num_classes);
    if (found_.size() < count) found_.resize(count), rows.resize(count);
    classes.clear();
    offsets.assign(2, 0);
    skipped = 0;
    const auto found = [&](auto* labels) { return find(labels, batch, num_classes); };
    if (!visit(batch.labels, found)) return false;
    // offsets[p + 1] is where the next row of class p goes, and in the end where the class ends
    for (std::size_t p = 2; p < offsets.size(); ++p) offsets[p] += offsets[p - 1];
    for (std::size_t i = 0; i < count; ++i)
        if (found_[i] >= 0) rows[offsets[found_[i] + 1]++] = static_cast<std::int32_t>(i);
    return true;
}

}  // namespace ncfast

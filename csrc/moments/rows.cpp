// Sorts row numbers by class, by counting.
#include "moments/rows.h"

#include <algorithm>
#include <atomic>
#include <cstddef>

#include "core/pool.h"

namespace ncfast {
namespace {

constexpr std::int64_t kRowsPerPart = 1 << 15;       // for fewer rows, waking a thread costs more
constexpr std::int64_t kHistogramEntries = 1 << 21;  // 8 MiB for the histograms of all parts

template <class L>
struct Reader {
    const L* data;
    std::int64_t stride;
    std::uint64_t num_classes;

    // A label out of range goes to class 0; the caller then makes every result NaN. Each label is
    // read once because another thread may write to it meanwhile.
    std::int32_t operator()(std::int64_t i, bool& valid) const {
        const auto label = static_cast<std::int64_t>(__atomic_load_n(data + i * stride, __ATOMIC_RELAXED));
        if (static_cast<std::uint64_t>(label) < num_classes) return static_cast<std::int32_t>(label);
        valid = false;
        return 0;
    }
};

// Turns the (parts, K) counts into the position of each part's next row of a class.
void to_positions(std::vector<std::int32_t>& counts, std::int64_t parts, std::int64_t num_classes,
                  std::vector<std::int32_t>& offsets) {
    std::int32_t position = 0;
    for (std::int64_t c = 0; c < num_classes; ++c) {
        offsets[c] = position;
        for (std::int64_t p = 0; p < parts; ++p) {
            const std::int32_t count = counts[p * num_classes + c];
            counts[p * num_classes + c] = position;
            position += count;
        }
    }
    offsets[num_classes] = position;
}

template <class L>
void sort_by(const Reader<L>& label, std::int64_t count, std::int64_t num_classes, int threads,
             Plan& plan) {
    const std::int64_t parts = std::max<std::int64_t>(
        1, std::min({static_cast<std::int64_t>(threads), count / kRowsPerPart,
                     kHistogramEntries / num_classes}));
    std::vector<std::int32_t> counts(static_cast<std::size_t>(parts * num_classes));
    std::atomic<bool> all_valid{true};
    parallel_for(parts, threads, [&](std::int64_t part) {
        std::int32_t* own = counts.data() + part * num_classes;
        bool valid = true;
        for (std::int64_t i = count * part / parts; i < count * (part + 1) / parts; ++i)
            ++own[plan.classes[i] = label(i, valid)];
        if (!valid) all_valid.store(false);
    });
    to_positions(counts, parts, num_classes, plan.offsets);
    parallel_for(parts, threads, [&](std::int64_t part) {
        std::int32_t* own = counts.data() + part * num_classes;
        for (std::int64_t i = count * part / parts; i < count * (part + 1) / parts; ++i)
            plan.rows[own[plan.classes[i]]++] = static_cast<std::int32_t>(i);
    });
    plan.valid = all_valid.load();
}

}  // namespace

void sort_rows(const Labels& labels, std::int64_t first, std::int64_t count,
               std::int64_t num_classes, int threads, Plan& plan) {
    if (!plan.rows) {
        plan.rows.reset(new std::int32_t[static_cast<std::size_t>(count)]);
        plan.classes.reset(new std::int32_t[static_cast<std::size_t>(count)]);
    }
    plan.offsets.resize(static_cast<std::size_t>(num_classes) + 1);
    const auto sort = [&](auto* data) {
        using L = std::remove_pointer_t<decltype(data)>;
        const Reader<L> reader{data + first * labels.stride, labels.stride,
                               static_cast<std::uint64_t>(num_classes)};
        sort_by(reader, count, num_classes, threads, plan);
    };
    visit(labels, sort);
}

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

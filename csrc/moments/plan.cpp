// Sorts row numbers by label, in parallel.
#include "moments/plan.h"

#include <algorithm>
#include <atomic>

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

}  // namespace ncfast

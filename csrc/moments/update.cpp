#include "moments/update.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/isa.h"
#include "core/pool.h"
#include "moments/merge.h"

namespace ncfast {
namespace {

// Sizes in bytes read and written; functions of the batch alone, so that results do not depend on
// the number of threads.
constexpr std::int64_t kLeastUnit = 64 << 10, kMostUnit = 1 << 20;
constexpr std::int64_t kUnits = 16;
constexpr std::int64_t kLeastCut = 512 << 10;    // a class of less is never cut
constexpr std::int64_t kOneThread = 384 << 10;   // to wake a thread takes as long

// Whole classes, or a part of one.
struct Unit {
    std::int64_t first, last;   // of the classes
    std::int64_t begin, end;    // of the rows
    std::int64_t partial = -1;  // where a part of a class has its state
    Norms norms{};
};

class Update {
public:
    Update(const Matrix& feats, const Present& present, const Moments& state)
        : feats_(feats), present_(present), state_(state),
          row_bytes_(static_cast<std::int64_t>(size_of(feats.dtype)) * feats.cols),
          mean_bytes_(2 * feats.cols * std::int64_t{sizeof(double)}) {}

    void run(int threads) {
        const std::int64_t bytes = present_.size() * row_bytes_ + present_.number() * mean_bytes_;
        plan(bytes);
        means_.resize(static_cast<std::size_t>(partial_classes_.size()) * feats_.cols);
        partials_.resize(partial_classes_.size());
        parallel_for(static_cast<std::int64_t>(units_.size()), bytes < kOneThread ? 1 : threads,
                     [&](std::int64_t i) { join(units_[i]); });
        for (std::size_t i = 0; i < partials_.size(); ++i) {
            ClassState own = state_of(partial_classes_[i]);
            merge(own, partials_[i], feats_.cols);
            put(partial_classes_[i], own);
        }
        add_norms();
    }

private:
    void plan(std::int64_t bytes) {
        const std::int64_t enough = std::clamp(bytes / kUnits, kLeastUnit, kMostUnit);
        const std::int64_t cut = std::max(kLeastCut, 2 * bytes / kUnits);
        std::int64_t first = 0, size = 0;
        const auto close = [&](std::int64_t last) {
            if (first < last) units_.push_back({first, last, begin(first), begin(last)});
            first = last, size = 0;
        };
        for (std::int64_t p = 0; p < present_.number(); ++p) {
            const std::int64_t rows = begin(p + 1) - begin(p);
            if (rows > 1 && rows * row_bytes_ > cut) {
                close(p);
                cut_class(p, std::min(rows, rows * row_bytes_ / (cut / 2)));
                first = p + 1;
            } else if ((size += rows * row_bytes_ + mean_bytes_) >= enough) {
                close(p + 1);
            }
        }
        close(present_.number());
    }

    void cut_class(std::int64_t p, std::int64_t parts) {
        const std::int64_t rows = begin(p + 1) - begin(p);
        for (std::int64_t i = 0; i < parts; ++i) {
            const std::int64_t from = begin(p) + rows * i / parts;
            const std::int64_t to = begin(p) + rows * (i + 1) / parts;
            units_.push_back({p, p + 1, from, to, static_cast<std::int64_t>(partial_classes_.size())});
            partial_classes_.push_back(present_.classes[p]);
        }
    }

    void join(Unit& unit) {
        const Join join = kernels().join[static_cast<int>(feats_.dtype)];
        const std::int32_t* rows = present_.rows.data();
        for (std::int64_t p = unit.first; p < unit.last; ++p) {
            const std::int64_t a = std::max(begin(p), unit.begin);
            const std::int64_t b = std::min(begin(p + 1), unit.end);
            const std::int64_t c = present_.classes[p];
            const std::int64_t next = present_.classes[std::min(p + 1, unit.last - 1)];
            const Run run{feats_, rows + a, b - a, rows + present_.size()};
            const Joining of{run, state_.means + next * feats_.cols, {}};
            if (unit.partial >= 0) {
                partials_[unit.partial] = {0, 0, means_.data() + unit.partial * feats_.cols};
                join(of, partials_[unit.partial], unit.norms);
            } else {
                ClassState own = state_of(c);
                join(of, own, unit.norms);
                put(c, own);
            }
        }
    }

    void add_norms() {
        double largest = *state_.norm_max;
        for (const Unit& unit : units_) {
            *state_.norm_sum += unit.norms.sum;
            largest = std::max(largest, unit.norms.max);
        }
        // a NaN among the norms is lost on `max`, but not on the sum
        *state_.norm_max = std::isnan(*state_.norm_sum) ? *state_.norm_sum : largest;
    }

    std::int64_t begin(std::int64_t p) const { return present_.offsets[p]; }
    ClassState state_of(std::int64_t c) const {
        return {state_.counts[c], state_.within_ss[c], state_.means + c * feats_.cols};
    }
    void put(std::int64_t c, const ClassState& from) const {
        state_.counts[c] = from.count;
        state_.within_ss[c] = from.within_ss;
    }

    const Matrix feats_;
    const Present& present_;
    const Moments state_;
    const std::int64_t row_bytes_, mean_bytes_;
    std::vector<Unit> units_;
    std::vector<std::int64_t> partial_classes_;
    std::vector<ClassState> partials_;
    std::vector<double> means_;  // of the partial states
};

}  // namespace

std::int64_t update_moments(const Batch& batch, std::int64_t num_classes, const Moments& state,
                            std::int64_t* left_out, double* scatter, int threads) {
    (void)scatter;
    static thread_local Present present;
    if (!present.sort(batch, num_classes)) return present.invalid_row;
    if (present.number() > 0) Update(batch.feats, present, state).run(threads);
    if (left_out != nullptr) *left_out += present.skipped;
    return -1;
}

}  // namespace ncfast

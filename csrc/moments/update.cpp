// Cuts a batch into units of work and merges their results into class moments.
#include "moments/moments.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "core/isa.h"
#include "core/pool.h"
#include "products/second_pass.h"

namespace ncfast {
namespace {

// Sizes in bytes read and written. Units are functions of the batch alone, so that results do not
// depend on the number of threads.
constexpr std::int64_t kUnits = 16, kLeastUnit = 64 << 10, kMostUnit = 1 << 20;
constexpr std::int64_t kLeastCut = 512 << 10;   // a class of less is never cut
constexpr std::int64_t kBlockRows = 1 << 22;    // rows at once: bounds the memory of their numbers
constexpr std::int64_t kOneThread = 384 << 10;  // to wake a thread takes as long

// Whole classes, or a part of one.
struct Unit {
    std::int64_t first, last;   // of the classes
    std::int64_t begin, end;    // of the sorted rows
    std::int64_t partial = -1;  // where a part of a class has its state
    Norms norms{};
};

class Update {
public:
    Update(const Matrix& feats, const Present& present, const Moments& state, int threads)
        : feats_(feats), present_(present), state_(state), threads_(threads),
          row_bytes_(static_cast<std::int64_t>(size_of(feats.dtype)) * feats.cols),
          mean_bytes_(2 * feats.cols * std::int64_t{sizeof(double)}) {}

    void moments() {
        const std::int64_t bytes = present_.size() * row_bytes_ + present_.number() * mean_bytes_;
        plan(0, present_.size(), std::max(kLeastCut, 2 * bytes / kUnits));
        partial_means_.resize(partials_.size() * static_cast<std::size_t>(feats_.cols));
        for (std::size_t i = 0; i < partials_.size(); ++i)
            partials_[i].mean = partial_means_.data() + i * static_cast<std::size_t>(feats_.cols);
        join_units({});
        for (const Unit& unit : units_) {
            if (unit.partial < 0) continue;
            ClassState own = state_of(unit.first);
            merge(own, partials_[unit.partial], feats_.cols);
            put(unit.first, own);
        }
    }

    // A row that comes after k others of its class adds k / (k + 1) d d^T to the scatter matrix,
    // where d is its deviation from their mean. Rows of a class join in order: no class is cut.
    void moments_and_scatter(double* total) {
        PackedRows packed(present_.size(), feats_.cols);
        for (std::int64_t first = 0; first < present_.size(); first += kGramRows) {
            packed.depth = std::min(kGramRows, present_.size() - first);
            plan(first, first + packed.depth, std::numeric_limits<std::int64_t>::max());
            join_units({packed.data, packed.depth, -first});
            packed.add_products(total, threads_);
        }
        mirror(total, feats_.cols, threads_);
    }

private:
    // Units of the sorted rows from `begin` to `end`. A class is cut where it has more than `cut`
    // bytes of them.
    void plan(std::int64_t begin, std::int64_t end, std::int64_t cut) {
        units_.clear();
        bytes_ = 0;
        const auto& starts = present_.offsets;
        std::int64_t p = std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin() - 1;
        const std::int64_t enough =
            std::clamp((end - begin) * row_bytes_ / kUnits, kLeastUnit, kMostUnit);
        Unit open{};
        std::int64_t size = 0;
        const auto close = [&] {
            if (size > 0) units_.push_back(open);
            bytes_ += std::exchange(size, 0);
        };
        for (std::int64_t stop; begin < end; begin = stop, ++p) {
            stop = std::min(end, start_of(p + 1));
            const std::int64_t bytes = (stop - begin) * row_bytes_;
            if (bytes > cut) {
                close();
                cut_class(p, begin, stop, std::min(stop - begin, 2 * bytes / cut));
                bytes_ += bytes;
                continue;
            }
            if (size == 0) open = {p, p, begin, begin};
            open.last = p + 1, open.end = stop;
            size += bytes + mean_bytes_;
            if (size >= enough) close();
        }
        close();
    }

    void cut_class(std::int64_t p, std::int64_t begin, std::int64_t end, std::int64_t parts) {
        for (std::int64_t i = 0; i < parts; ++i) {
            units_.push_back({p, p + 1, begin + (end - begin) * i / parts,
                              begin + (end - begin) * (i + 1) / parts,
                              static_cast<std::int64_t>(partials_.size())});
            partials_.push_back({0, 0, nullptr});
        }
    }

    // The deviation of sorted row i goes to row i + to.row.
    void join_units(const Deviations& to) {
        parallel_for(static_cast<std::int64_t>(units_.size()), bytes_ < kOneThread ? 1 : threads_,
                     [&](std::int64_t i) { join_unit(units_[i], to); });
        double largest = *state_.norm_max;
        for (const Unit& unit : units_) {
            *state_.norm_sum += unit.norms.sum;
            largest = std::max(largest, unit.norms.max);
        }
        // a NaN among the norms is lost on `max`, but not on the sum
        *state_.norm_max = std::isnan(*state_.norm_sum) ? *state_.norm_sum : largest;
    }

    void join_unit(Unit& unit, const Deviations& to) {
        const Join join = kernels().join[static_cast<int>(feats_.dtype)];
        const std::int32_t* rows = present_.rows.data();
        Norms norms;  // on the stack: units of other threads are close to this one in memory
        for (std::int64_t p = unit.first; p < unit.last; ++p) {
            const std::int64_t a = std::max(start_of(p), unit.begin);
            const std::int64_t b = std::min(start_of(p + 1), unit.end);
            ClassState state = unit.partial < 0 ? state_of(p) : partials_[unit.partial];
            const double* next = state_of(std::min(p + 1, unit.last - 1)).mean;
            const Run run{feats_, rows + a, b - a, rows + present_.size()};
            join({run, next, {to.panels, to.depth, to.row + a}}, state, norms);
            if (unit.partial < 0) put(p, state);
            else partials_[unit.partial] = state;
        }
        unit.norms = norms;
    }

    std::int64_t start_of(std::int64_t p) const { return present_.offsets[p]; }
    ClassState state_of(std::int64_t p) const {
        const std::int64_t c = present_.classes[p];
        return {state_.counts[c], state_.within_ss[c], state_.means + c * feats_.cols};
    }
    void put(std::int64_t p, const ClassState& from) const {
        state_.counts[present_.classes[p]] = from.count;
        state_.within_ss[present_.classes[p]] = from.within_ss;
    }

    const Matrix feats_;
    const Present& present_;
    const Moments state_;
    const int threads_;
    const std::int64_t row_bytes_, mean_bytes_;
    std::vector<Unit> units_;
    std::int64_t bytes_ = 0;             // of all units
    std::vector<ClassState> partials_;
    std::vector<double> partial_means_;
};

}  // namespace

std::int64_t update_moments(const Batch& batch, std::int64_t num_classes, const Moments& state,
                            std::int64_t* left_out, double* scatter, int threads) {
    static thread_local Present present;
    const std::int64_t invalid = first_invalid_row(batch, num_classes);
    if (invalid >= 0) return invalid;
    for (std::int64_t first = 0; first < batch.feats.rows; first += kBlockRows) {
        Matrix block = batch.feats;
        block.rows = std::min(kBlockRows, batch.feats.rows - first);
        block.data = static_cast<const char*>(batch.feats.data) +
                     first * block.stride * static_cast<std::int64_t>(size_of(block.dtype));
        present.sort(batch, first, block.rows, num_classes);
        Update update(block, present, state, threads);
        if (present.number() > 0 && scatter == nullptr) update.moments();
        if (present.number() > 0 && scatter != nullptr) update.moments_and_scatter(scatter);
        if (!present.valid)
            *state.norm_sum = *state.norm_max = std::numeric_limits<double>::quiet_NaN();
        if (left_out != nullptr) *left_out += present.left_out;
    }
    return -1;
}

}  // namespace ncfast

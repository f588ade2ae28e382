// Class moments: by lanes for few classes, else by units of rows sorted by class.
#include "moments/moments.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "core/isa.h"
#include "core/memory.h"
#include "core/pool.h"

namespace ncfast {
namespace {

// ---- few classes: lanes read contiguous rows and keep a state of every class each ----
//
// A lane sorts its rows by class in blocks. The rows of a block stay within the page tables that a
// core caches and within the streams that its hardware prefetchers follow.

constexpr std::int64_t kBlockBytes = 8 << 20;
constexpr std::int64_t kBlockRows = 1 << 18;
constexpr std::int64_t kLaneBytes = 1 << 20;      // of features: outweighs handing over a task
constexpr std::int64_t kLaneStates = 24 << 20;    // bytes, of all lanes
constexpr std::int64_t kMostLanes = 16;           // each lane costs page faults for its states
constexpr std::int64_t kFewestLanes = 8;          // fewer would leave threads without work
constexpr std::int64_t kRowsOfClass = 10;         // per block: fewer rows do not pay for a fold

// The number of lanes and their blocks: functions of the shapes alone, so that results do not
// depend on the number of threads.
struct Lanes {
    std::int64_t number;
    std::int64_t block_rows;

    Lanes(const Matrix& feats, std::int64_t num_classes) {
        const auto row_bytes = static_cast<std::int64_t>(size_of(feats.dtype)) * feats.cols;
        const std::int64_t bytes = row_bytes * feats.rows;
        const std::int64_t state_bytes = num_classes * feats.cols * std::int64_t{sizeof(double)};
        block_rows = std::clamp<std::int64_t>(kBlockBytes / row_bytes, 1, kBlockRows);
        // Writing and merging the states once must take little time next to reading the features.
        number = std::min({kMostLanes, bytes / kLaneBytes, bytes / 64 / state_bytes,
                           kLaneStates / state_bytes});
        if (num_classes * kRowsOfClass > block_rows) number = 0;
    }
    bool worthwhile() const { return number >= kFewestLanes; }
};

// The moments of all classes over the rows of one lane.
struct Lane {
    std::vector<ClassState> classes;
    Norms norms;
    bool valid = true;
};

// Adds the rows [first, last) to `lane`. Its states already point to the memory of their means.
void add_to_lane(const Matrix& feats, const Labels& labels, std::int64_t first,
                        std::int64_t last, std::int64_t block_rows, Lane& lane) {
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

// ---- the call ----

constexpr std::int64_t kFillEntries = 1 << 18;  // of means, per thread

// The results of one unit: its norms, and the parts of the two classes that other units may share.
struct Partial {
    std::int64_t label = -1;
    ClassState state{0, 0, nullptr};
};
struct UnitResult {
    Norms norms;
    Partial ends[2];
};

class ClassMoments {
public:
    ClassMoments(const Matrix& feats, const Labels& labels, std::int64_t num_classes,
                 const Moments& out, int threads)
        : feats_(feats), labels_(labels), num_classes_(num_classes), out_(out), threads_(threads) {}

    void run() {
        std::fill(out_.counts, out_.counts + num_classes_, 0);
        std::fill(out_.within_ss, out_.within_ss + num_classes_, 0.0);
        const std::size_t bytes = sizeof(double) * num_classes_ * feats_.cols;
        if (bytes > kRecycledBytes) prefer_huge_pages(out_.means, bytes);
        const Lanes lanes(feats_, num_classes_);
        if (lanes.worthwhile()) {
            add_by_lanes(lanes);
        } else {
            const std::int64_t step = std::min(feats_.rows, rows_per_plan(feats_, num_classes_));
            for (std::int64_t first = 0; first < feats_.rows; first += step)
                add_rows(first, std::min(step, feats_.rows - first));
        }
        finish();
    }

private:
    void add_by_lanes(const Lanes& lanes) {
        std::vector<Lane> all(static_cast<std::size_t>(lanes.number));
        const std::int64_t entries = num_classes_ * feats_.cols;
        shared_means_.reset(new double[static_cast<std::size_t>(lanes.number * entries)]);
        prefer_huge_pages(shared_means_.get(), sizeof(double) * lanes.number * entries);
        parallel_for(lanes.number, threads_, [&](std::int64_t i) {
            double* means = shared_means_.get() + i * entries;
            for (std::int64_t c = 0; c < num_classes_; ++c)
                all[i].classes.push_back({0, 0, means + c * feats_.cols});
            add_to_lane(feats_, labels_, feats_.rows * i / lanes.number,
                        feats_.rows * (i + 1) / lanes.number, lanes.block_rows, all[i]);
        });
        for (const Lane& lane : all) {
            add(lane.norms);
            valid_ = valid_ && lane.valid;
        }
        const int threads = lanes.number * entries > kFillEntries ? threads_ : 1;
        parallel_for(num_classes_, threads, [&](std::int64_t c) {
            ClassState state = state_of(c);
            for (const Lane& lane : all)
                if (lane.classes[c].count > 0) merge(state, lane.classes[c], feats_.cols);
            out_.counts[c] = state.count;
            out_.within_ss[c] = state.within_ss;
        });
    }

    void add_rows(std::int64_t first, std::int64_t count) {
        sort_rows(labels_, first, count, num_classes_, threads_, plan_);
        valid_ = valid_ && plan_.valid;
        block_ = feats_;
        block_.data = static_cast<const char*>(feats_.data) +
                      first * feats_.stride * static_cast<std::int64_t>(size_of(feats_.dtype));
        const auto row_bytes = feats_.cols * static_cast<std::int64_t>(size_of(feats_.dtype));
        scattered_ = count * row_bytes > kBlockBytes;
        const Units units(feats_, count, num_classes_);
        results_.assign(static_cast<std::size_t>(units.number()), UnitResult{});
        const std::int64_t shared = units.number() > 1 ? 2 * units.number() * feats_.cols : 0;
        // The first block of rows is the largest, so this memory is enough for all blocks.
        if (!shared_means_) shared_means_.reset(new double[static_cast<std::size_t>(shared)]);
        parallel_for(units.number(), units.threads(threads_),
                     [&](std::int64_t unit) { add_unit(units.begin(unit), units.end(unit), unit); });
        for (const UnitResult& result : results_) collect(result);
    }

    void add_unit(std::int64_t first, std::int64_t last, std::int64_t unit) {
        UnitResult& result = results_[unit];
        const Accumulate accumulate = kernels().accumulate[static_cast<int>(feats_.dtype)];
        for_each_run(plan_, first, last, [&](std::int64_t c, std::int64_t a, std::int64_t b) {
            const std::int32_t* rows = plan_.rows.get();
            const Run run{block_, rows + a, b - a, rows + last, scattered_};
            const bool from_before = a > plan_.offsets[c];
            const bool goes_on = b < plan_.offsets[c + 1];
            if (!from_before && !goes_on) {
                ClassState state = state_of(c);
                accumulate(run, state, result.norms);
                out_.counts[c] = state.count;
                out_.within_ss[c] = state.within_ss;
            } else {
                const int end = from_before ? 0 : 1;
                Partial& partial = result.ends[end];
                partial.label = c;
                partial.state.mean = shared_means_.get() + (2 * unit + end) * feats_.cols;
                accumulate(run, partial.state, result.norms);
            }
        });
    }

    ClassState state_of(std::int64_t c) const {
        return {out_.counts[c], out_.within_ss[c], out_.means + c * feats_.cols};
    }

    // Called in the order of the units, so that the order of the sums is fixed.
    void collect(const UnitResult& result) {
        add(result.norms);
        for (const Partial& partial : result.ends) {
            if (partial.label < 0) continue;
            ClassState state = state_of(partial.label);
            merge(state, partial.state, feats_.cols);
            out_.counts[partial.label] = state.count;
            out_.within_ss[partial.label] = state.within_ss;
        }
    }

    void add(const Norms& norms) {
        norms_.sum += norms.sum;
        norms_.max = std::max(norms_.max, norms.max);
    }

    void finish() {
        const double nan = std::numeric_limits<double>::quiet_NaN();
        const std::int64_t most = num_classes_ * feats_.cols / kFillEntries + 1;
        const std::int64_t parts = std::min({most, num_classes_, std::int64_t{threads_}});
        parallel_for(parts, threads_, [&](std::int64_t part) {
            for (std::int64_t c = num_classes_ * part / parts; c < num_classes_ * (part + 1) / parts;
                 ++c) {
                double* mean = out_.means + c * feats_.cols;
                if (!valid_) out_.within_ss[c] = nan;
                if (!valid_ || out_.counts[c] == 0)
                    std::fill(mean, mean + feats_.cols, valid_ ? 0.0 : nan);
            }
        });
        *out_.norm_sum = valid_ ? norms_.sum : nan;
        // `max` drops a NaN, the sum keeps it.
        *out_.norm_max = std::isnan(*out_.norm_sum) ? nan : norms_.max;
    }

    const Matrix feats_;
    const Labels labels_;
    const std::int64_t num_classes_;
    const Moments out_;
    const int threads_;
    Matrix block_{};
    bool scattered_ = false;
    Plan plan_;
    std::vector<UnitResult> results_;
    std::unique_ptr<double[]> shared_means_;
    Norms norms_;
    bool valid_ = true;
};

}  // namespace

void class_moments(const Matrix& feats, const Labels& labels, std::int64_t num_classes,
                   const Moments& out, int threads) {
    ClassMoments(feats, labels, num_classes, out, threads).run();
}

}  // namespace ncfast

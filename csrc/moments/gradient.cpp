// The gradient through the class moments, cut into tasks of rows.
#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "core/isa.h"
#include "core/memory.h"
#include "core/pool.h"
#include "moments/moments.h"

namespace ncfast {
namespace {

constexpr std::int64_t kTaskBytes = 256 << 10;
constexpr std::int64_t kMostTaskBytes = 32 << 20;
constexpr std::int64_t kRowsOfClass = 16;  // of a task: enough to read what they share but once
constexpr std::int64_t kOneThread = 1 << 18;  // bytes: waking a thread takes as long
constexpr std::int64_t kPastCaches = 16 << 20;
constexpr std::int64_t kClassesPerTask = 64;
constexpr float kLargestCentre = 0x1p118f;  // its difference from any bfloat16 is a float

// What the rows of a class share, and the factor of its rows; see RowGradients.
class ClassTerms {
public:
    ClassTerms(std::int64_t num_classes, std::int64_t cols, Dtype dtype, const std::int64_t* counts,
               const double* means, const MomentGradients& of, int threads)
        : cols_(cols), counts_(counts), means_(means), of_(of),
          slopes_(static_cast<std::size_t>(num_classes + 1)) {
        const bool halves = size_of(dtype) == 2;
        const auto entries = static_cast<std::size_t>((num_classes + 1) * cols);
        if (halves) {
            centres_.reset(new float[entries]);
            rests_.reset(new float[entries]);
        } else {
            shared_.reset(new double[entries]);
        }
        const std::int64_t tasks = (num_classes + kClassesPerTask - 1) / kClassesPerTask;
        parallel_for(tasks, threads, [&](std::int64_t task) {
            const std::int64_t end = std::min(num_classes, (task + 1) * kClassesPerTask);
            for (std::int64_t c = task * kClassesPerTask; c < end; ++c) {
                if (counts[c] == 0) continue;  // no row reads it, and its memory stays untouched
                const double slope = of.within_ss == nullptr ? 0 : 2 * of.within_ss[c];
                slopes_[static_cast<std::size_t>(c)] = slope;
                if (!halves) set_shared(c, slope);
                else if (!set_centre(c, slope)) wide_ = true;
            }
        });
        // the last class stands for labels out of range
        const std::int64_t last = num_classes * cols;
        constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
        if (halves) {
            std::fill_n(centres_.get() + last, cols, kNan);
            std::fill_n(rests_.get() + last, cols, kNan);
        } else {
            std::fill_n(shared_.get() + last, cols, kNan);
        }
    }

    RowGradients of_rows(const Matrix& feats) const {
        RowGradients rows{};
        rows.feats = feats;
        rows.slopes = slopes_.data();
        rows.shared = shared_.get();
        rows.centres = centres_.get();
        rows.rests = rests_.get();
        rows.wide = wide_;
        return rows;
    }

private:
    // A double holds the product of a float exactly enough: the rounding is that of mu itself.
    void set_shared(std::int64_t c, double slope) {
        for (std::int64_t d = c * cols_; d < (c + 1) * cols_; ++d)
            shared_[d] = of_mean(c, d) - slope * means_[d];
    }

    // The rest holds what the mean loses where it is rounded to float. Returns whether the products
    // stay within the range of float.
    bool set_centre(std::int64_t c, double slope) {
        float largest = 0;
        for (std::int64_t d = c * cols_; d < (c + 1) * cols_; ++d) {
            centres_[d] = static_cast<float>(means_[d]);
            rests_[d] = static_cast<float>(of_mean(c, d) - slope * (means_[d] - centres_[d]));
            largest = std::max(largest, std::fabs(centres_[d]));
        }
        const double size = std::fabs(slope);
        return largest <= kLargestCentre && (size == 0 || (size >= FLT_MIN && size <= FLT_MAX));
    }

    double of_mean(std::int64_t c, std::int64_t d) const {
        return of_.means == nullptr ? 0 : of_.means[d] / static_cast<double>(counts_[c]);
    }

    const std::int64_t cols_;
    const std::int64_t* const counts_;
    const double* const means_;
    const MomentGradients of_;
    std::vector<double> slopes_;
    std::unique_ptr<double[]> shared_;
    std::unique_ptr<float[]> centres_, rests_;
    std::atomic<bool> wide_{false};
};

// The rows of a task sorted by class, where there are fewer classes than rows.
class TaskRows {
public:
    TaskRows(const Labels& labels, std::int64_t first, std::int64_t count, std::int64_t num_classes)
        : first_(first), classes_(static_cast<std::size_t>(count)), rows_(classes_.size()) {
        visit(labels, [&](const auto* values) {
            for (std::int64_t i = 0; i < count; ++i) {
                const auto c = static_cast<std::int64_t>(values[(first + i) * labels.stride]);
                classes_[i] = static_cast<std::int32_t>(c >= 0 && c < num_classes ? c : num_classes);
            }
        });
        std::iota(rows_.begin(), rows_.end(), 0);
        if (num_classes >= count) return;
        std::vector<std::int32_t> next(static_cast<std::size_t>(num_classes + 2)), sorted(rows_.size());
        for (const std::int32_t c : classes_) ++next[c + 1];
        for (std::int64_t c = 0; c < num_classes; ++c) next[c + 1] += next[c];
        for (const std::int32_t row : rows_) sorted[next[classes_[row]]++] = row;
        // next[c] is where class c ends now
        for (std::int32_t c = 0, i = 0; c <= num_classes; ++c)
            for (; i < next[c]; ++i) classes_[i] = c;
        rows_.swap(sorted);
    }

    SortedRows view() const {
        return {rows_.data(), classes_.data(), first_, static_cast<std::int64_t>(rows_.size())};
    }

private:
    const std::int64_t first_;
    std::vector<std::int32_t> classes_, rows_;
};

}  // namespace

void moment_gradients(const Matrix& feats, const Labels& labels, std::int64_t num_classes,
                      const std::int64_t* counts, const double* means, const MomentGradients& of,
                      void* out, int threads) {
    const auto row_bytes = feats.cols * static_cast<std::int64_t>(size_of(feats.dtype));
    const std::int64_t bytes = feats.rows * row_bytes;
    if (bytes < kOneThread) threads = 1;
    const std::int64_t most = std::min(kMostTaskBytes / row_bytes, feats.rows / (4 * threads));
    const std::int64_t task_rows = std::max({std::int64_t{1}, kTaskBytes / row_bytes,
                                             std::min(kRowsOfClass * num_classes, most)});
    const std::int64_t tasks = (feats.rows + task_rows - 1) / task_rows;
    if (static_cast<std::size_t>(bytes) > kRecycledBytes)
        prefer_huge_pages(out, static_cast<std::size_t>(bytes));
    const ClassTerms terms(num_classes, feats.cols, feats.dtype, counts, means, of, threads);
    RowGradients rows = terms.of_rows(feats);
    rows.norms = of.norm_sum != nullptr || of.norm_max != nullptr;
    rows.seeks_largest = of.norm_max != nullptr;
    rows.norm_slope = of.norm_sum == nullptr ? 0 : *of.norm_sum;
    rows.row = -1;
    rows.past_caches = bytes > kPastCaches;
    rows.whole_lines = rows.past_caches && row_bytes % 64 == 0 &&
                       reinterpret_cast<std::uintptr_t>(out) % 64 == 0;
    rows.out = out;
    const auto run = [&](std::int64_t first, std::int64_t count, LargestRow& largest) {
        const TaskRows sorted(labels, first, count, num_classes);
        LineVector<char> buffer(static_cast<std::size_t>(kGradientRows * (row_bytes + 128)));
        kernels().differentiate[static_cast<int>(feats.dtype)](rows, sorted.view(), buffer.data(),
                                                               largest);
    };
    std::vector<LargestRow> largest(static_cast<std::size_t>(tasks));
    parallel_for(tasks, threads, [&](std::int64_t task) {
        const std::int64_t first = task * task_rows;
        LargestRow own;  // on the stack: those of other threads are close in memory
        run(first, std::min(task_rows, feats.rows - first), own);
        largest[static_cast<std::size_t>(task)] = own;
    });
    if (of.norm_max == nullptr) return;
    LargestRow found;
    for (const LargestRow& each : largest)
        if (each.norm > found.norm) found = each;
    if (found.row < 0) return;
    rows.row = found.row;
    rows.row_slope = *of.norm_max;
    run(found.row, 1, found);
}

}  // namespace ncfast

// The gradient through the class moments, cut into tasks of rows.
#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "core/isa.h"
#include "core/pool.h"
#include "moments/moments.h"

namespace ncfast {
namespace {

constexpr std::int64_t kTaskBytes = 256 << 10;
constexpr std::int64_t kOneThread = 1 << 18;  // bytes: waking a thread takes as long
constexpr std::int64_t kPastCaches = 16 << 20;
constexpr std::int64_t kClassesPerTask = 64;

// What the rows of a class share, and the factor of its rows: x * slope + shared is
// g_means / n + 2 (x - mu) g_ss. A double holds the product of a float exactly enough: the rounding
// is that of mu itself.
struct ClassTerms {
    std::unique_ptr<double[]> shared;
    std::vector<double> slopes;

    ClassTerms(std::int64_t num_classes, std::int64_t cols, const std::int64_t* counts,
               const double* means, const MomentGradients& of, int threads)
        : shared(new double[static_cast<std::size_t>((num_classes + 1) * cols)]),
          slopes(static_cast<std::size_t>(num_classes + 1)) {
        const std::int64_t tasks = (num_classes + kClassesPerTask - 1) / kClassesPerTask;
        parallel_for(tasks, threads, [&](std::int64_t task) {
            const std::int64_t end = std::min(num_classes, (task + 1) * kClassesPerTask);
            for (std::int64_t c = task * kClassesPerTask; c < end; ++c) {
                if (counts[c] == 0) continue;  // no row reads it, and its memory stays untouched
                const double slope = of.within_ss == nullptr ? 0 : 2 * of.within_ss[c];
                const auto number = static_cast<double>(counts[c]);
                slopes[static_cast<std::size_t>(c)] = slope;
                for (std::int64_t d = c * cols; d < (c + 1) * cols; ++d)
                    shared[static_cast<std::size_t>(d)] =
                        (of.means == nullptr ? 0 : of.means[d] / number) - slope * means[d];
            }
        });
        // the last class stands for labels out of range
        std::fill_n(shared.get() + num_classes * cols, cols,
                    std::numeric_limits<double>::quiet_NaN());
    }
};

}  // namespace

void moment_gradients(const Matrix& feats, const Labels& labels, std::int64_t num_classes,
                      const std::int64_t* counts, const double* means, const MomentGradients& of,
                      void* out, int threads) {
    const auto row_bytes = feats.cols * static_cast<std::int64_t>(size_of(feats.dtype));
    const std::int64_t bytes = feats.rows * row_bytes;
    const std::int64_t task_rows = std::max<std::int64_t>(1, kTaskBytes / row_bytes);
    const std::int64_t tasks = (feats.rows + task_rows - 1) / task_rows;
    if (bytes < kOneThread) threads = 1;
    const ClassTerms terms(num_classes, feats.cols, counts, means, of, threads);
    RowGradients rows{feats, terms.slopes.data(), terms.shared.get(),
                      of.norm_sum != nullptr || of.norm_max != nullptr,
                      of.norm_sum == nullptr ? 0 : *of.norm_sum, -1, 0, bytes > kPastCaches, out};
    const auto run = [&](std::int64_t first, std::int64_t count, LargestRow& largest) {
        std::vector<std::int64_t> classes(static_cast<std::size_t>(count));
        visit(labels, [&](const auto* values) {
            for (std::int64_t i = 0; i < count; ++i) {
                const auto c = static_cast<std::int64_t>(values[(first + i) * labels.stride]);
                classes[static_cast<std::size_t>(i)] = c >= 0 && c < num_classes ? c : num_classes;
            }
        });
        std::vector<char> buffer(static_cast<std::size_t>(row_bytes + 128));
        void* at = buffer.data();
        std::size_t space = buffer.size();
        std::align(64, static_cast<std::size_t>(row_bytes + 64), at, space);
        kernels().differentiate[static_cast<int>(feats.dtype)](rows, first, count, classes.data(),
                                                               at, largest);
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

// Builds the panels of a space and bounds the error of its scores in float.
#include "neighbors/space.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/pool.h"

namespace ncfast {
namespace {

constexpr std::int64_t kRowsPerTask = 512;
// Scaled coordinates stay below 2^50. No sum of squared differences overflows for up to 2^20
// columns, and the square of a difference 2^110 times below the largest is still a normal number.
constexpr int kExponent = 50;
constexpr double kFloatEps = 0x1p-24;
constexpr double kSmallest = 0x1p-126;

std::int64_t tasks_for(std::int64_t rows) { return (rows + kRowsPerTask - 1) / kRowsPerTask; }

template <class Each>
void for_rows(std::int64_t rows, int threads, Each each) {
    parallel_for(tasks_for(rows), threads, [&](std::int64_t task) {
        each(task, task * kRowsPerTask, std::min(rows, (task + 1) * kRowsPerTask));
    });
}

bool all_floats(const double* x, std::int64_t dim) {
    bool exact = true;
    for (std::int64_t d = 0; d < dim; ++d) exact &= static_cast<double>(static_cast<float>(x[d])) == x[d];
    return exact;
}

// The power of two that scales coordinates up to `largest` below 2^kExponent.
double power_of_two(double largest) {
    if (!(largest > 0)) return 1.0;
    return std::ldexp(1.0, std::min(1000, kExponent - 1 - std::ilogb(largest)));
}

}  // namespace

Space::Space(const PointSet& points, std::int64_t first, std::int64_t last, int threads)
    : points_(points), first_(first), rows_(last - first), kernels_(ncfast::kernels()) {
    measure(threads);
    fill(threads);
}

// Measures the coordinates. Coordinates that are not floats are rounded relative to the mean of the
// group; floats need no centre, because they are not rounded.
void Space::measure(int threads) {
    const std::int64_t dim = points_.dim, tasks = tasks_for(rows_);
    std::vector<char> floats(static_cast<std::size_t>(tasks), 1);
    for_rows(rows_, threads, [&](std::int64_t task, std::int64_t from, std::int64_t to) {
        for (std::int64_t i = from; i < to && floats[task]; ++i) floats[task] = all_floats(row(i), dim);
    });
    if (!std::all_of(floats.begin(), floats.end(), [](char each) { return each; })) {
        std::vector<double> sums(static_cast<std::size_t>(tasks * dim), 0.0);
        for_rows(rows_, threads, [&](std::int64_t task, std::int64_t from, std::int64_t to) {
            double* sum = sums.data() + task * dim;
            for (std::int64_t i = from; i < to; ++i)
                for (std::int64_t d = 0; d < dim; ++d) sum[d] += row(i)[d];
        });
        centre_.assign(static_cast<std::size_t>(dim), 0.0);
        for (std::int64_t task = 0; task < tasks; ++task)
            for (std::int64_t d = 0; d < dim; ++d) centre_[d] += sums[task * dim + d] / rows_;
    }
    const std::vector<double> zero(static_cast<std::size_t>(dim), 0.0);
    const double* centre = centre_.empty() ? zero.data() : centre_.data();
    std::vector<double> largest(static_cast<std::size_t>(tasks), 0.0);
    for_rows(rows_, threads, [&](std::int64_t task, std::int64_t from, std::int64_t to) {
        std::vector<double> most(static_cast<std::size_t>(dim), 0.0);  // by column: no chain of maxima
        for (std::int64_t i = from; i < to; ++i) {
            const double* x = row(i);
            for (std::int64_t d = 0; d < dim; ++d) {
                const double size = std::fabs(x[d] - centre[d]);
                most[d] = most[d] < size ? size : most[d];
            }
        }
        largest[task] = *std::max_element(most.begin(), most.end());
    });
    scale_ = power_of_two(*std::max_element(largest.begin(), largest.end()));
}

void Space::fill(int threads) {
    const std::int64_t dim = points_.dim, width = this->width(float{});
    const std::int64_t panels = (rows_ + width - 1) / width;
    floats_.reset(new float[static_cast<std::size_t>(panels * dim * width)]);
    if (!centre_.empty()) norms_.assign(static_cast<std::size_t>(rows_), 0.0);
    parallel_for(panels, threads, [&](std::int64_t panel) {
        float* to = floats_.get() + panel * dim * width;
        for (std::int64_t lane = 0; lane < width; ++lane) {
            const std::int64_t i = panel * width + lane;
            if (i >= rows_) {
                for (std::int64_t d = 0; d < dim; ++d)
                    to[d * width + lane] = std::numeric_limits<float>::infinity();
                continue;
            }
            double norm = 0;
            for (std::int64_t d = 0; d < dim; ++d) {
                const double centred = centre_.empty() ? row(i)[d] : row(i)[d] - centre_[d];
                const float y = static_cast<float>(centred * scale_);
                to[d * width + lane] = y;
                norm += static_cast<double>(y) * y;
            }
            if (!norms_.empty()) norms_[i] = std::sqrt(norm);
        }
    });
    if (!norms_.empty()) largest_norm_ = *std::max_element(norms_.begin(), norms_.end());
}

Margin Space::margin(std::int64_t id) const {
    const double dim = static_cast<double>(points_.dim);
    // The rounding of a row is at most eps times its norm; the rounding of the shift is negligible.
    const double norms = norms_.empty() ? 0 : norms_[id] + largest_norm_;
    const double blur = 2 * (1.001 * kFloatEps * norms + 2 * dim * kSmallest);
    return {1.001 * kFloatEps * (dim + 8), (dim + 2) * kSmallest, blur};
}

void Space::copy_row(std::int64_t id, float* to) const {
    const std::int64_t dim = points_.dim, width = this->width(float{});
    const float* from = floats_.get() + id / width * dim * width + id % width;
    for (std::int64_t d = 0; d < dim; ++d) to[d] = from[d * width];
}

const double* Space::data(double) const {
    std::call_once(doubles_once_, [this] {
        const std::int64_t dim = points_.dim, width = this->width(double{});
        const std::int64_t padded = (rows_ + width - 1) / width * width;
        doubles_.reset(new double[static_cast<std::size_t>(padded * dim)]);
        for (std::int64_t i = 0; i < padded; ++i) {
            double* to = doubles_.get() + i / width * dim * width + i % width;
            for (std::int64_t d = 0; d < dim; ++d)
                to[d * width] = i < rows_ ? row(i)[d] : std::numeric_limits<double>::infinity();
        }
    });
    return doubles_.get();
}

}  // namespace ncfast

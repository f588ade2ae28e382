// The second passes cut into tasks: scatter matrix, distances, projections, pairs of class means.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <limits>
#include <mutex>
#include <vector>

#include "core/isa.h"
#include "core/pool.h"
#include "moments/moments.h"
#include "moments/rows.h"
#include "products/second_pass.h"

namespace ncfast {
namespace {

constexpr std::int64_t kMostPanel = 16, kLineDoubles = 8;
constexpr std::int64_t kOneThread = 1 << 22;   // products: waking a thread takes as long
constexpr std::int64_t kMirrored = 32;         // rows and columns at once
constexpr std::int64_t kPackRows = 64;         // per task
constexpr std::int64_t kDistanceRows = 1024;   // per task
constexpr std::int64_t kPairRows = 64;         // per task: sums stay close to their pilot

std::int64_t round_up(std::int64_t value, std::int64_t step) {
    return (value + step - 1) / step * step;
}

// Transposes the square from (row, col) of the upper triangle on into the lower one. It passes
// through a buffer because rows a power of two apart push each other out of the cache.
void mirror_square(std::int64_t row, std::int64_t col, std::int64_t cols, double* total) {
    double square[kMirrored][kMirrored];
    const std::int64_t height = std::min(kMirrored, cols - row);
    const std::int64_t width = std::min(kMirrored, cols - col);
    for (std::int64_t i = 0; i < height; ++i)
        for (std::int64_t j = 0; j < width; ++j) square[j][i] = total[(row + i) * cols + col + j];
    for (std::int64_t j = 0; j < width; ++j)
        std::copy(square[j], square[j] + std::min(height, col + j - row),
                  total + (col + j) * cols + row);
}

}  // namespace

PackedRows::PackedRows(std::int64_t rows, std::int64_t cols)
    : depth(std::min(rows, kGramRows)), cols(cols) {
    const auto size = static_cast<std::size_t>(round_up(cols, kernels().products.panel) * depth);
    memory_.reset(new double[size + kLineDoubles]);
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.get()) / sizeof(double);
    data = memory_.get() + (kLineDoubles - address % kLineDoubles) % kLineDoubles;
}

void PackedRows::add_products(double* total, int threads) const {
    const Products& use = kernels().products;
    const std::int64_t number = (cols + use.panel - 1) / use.panel;
    parallel_for(number, depth * cols * cols < kOneThread ? 1 : threads, [&](std::int64_t task) {
        use.add_gram(data, depth, number - 1 - task, total, cols);  // the longest task first
    });
}

void mirror(double* total, std::int64_t cols, int threads) {
    const std::int64_t number = (cols + kMirrored - 1) / kMirrored;
    parallel_for(number, cols * cols < kOneThread ? 1 : threads, [&](std::int64_t task) {
        const std::int64_t col = (number - 1 - task) * kMirrored;
        for (std::int64_t row = 0; row <= col; row += kMirrored)
            mirror_square(row, col, cols, total);
    });
}

void scatter(const Matrix& feats, const std::int64_t* labels, const double* means, double* total,
             int threads) {
    const std::int64_t cols = feats.cols;
    const auto pack = kernels().products.pack_deviations[static_cast<int>(feats.dtype)];
    std::fill(total, total + cols * cols, 0.0);
    PackedRows packed(feats.rows, cols);
    for (std::int64_t first = 0; first < feats.rows; first += kGramRows) {
        packed.depth = std::min(kGramRows, feats.rows - first);
        Matrix block = feats;
        block.data = static_cast<const char*>(feats.data) +
                     first * feats.stride * static_cast<std::int64_t>(size_of(feats.dtype));
        parallel_for((packed.depth + kPackRows - 1) / kPackRows, threads, [&](std::int64_t task) {
            std::vector<double> row(static_cast<std::size_t>(cols + kMostPanel));
            const std::int64_t begin = task * kPackRows;
            pack(block, labels + first, means, begin, std::min(kPackRows, packed.depth - begin),
                 packed.depth, row.data(), packed.data);
        });
        packed.add_products(total, threads);
    }
    mirror(total, cols, threads);
}

void own_distances(const Matrix& feats, const std::int64_t* labels, const double* means,
                   double* out, int threads) {
    const auto distances = kernels().products.distances[static_cast<int>(feats.dtype)];
    parallel_for((feats.rows + kDistanceRows - 1) / kDistanceRows, threads, [&](std::int64_t task) {
        std::vector<double> row(static_cast<std::size_t>(feats.cols));
        const std::int64_t begin = task * kDistanceRows;
        distances(feats, labels, means, begin, std::min(kDistanceRows, feats.rows - begin),
                  row.data(), out);
    });
}

namespace {

// Adds the projections of one block of rows.
void project_rows(const Matrix& block, const Plan& plan, const double* means, const double* vectors,
                  std::int64_t num_vectors, double* sums, int threads) {
    const auto num_classes = static_cast<std::int64_t>(plan.offsets.size()) - 1;
    const Units units(block, plan.size(), num_classes);
    const Project project = kernels().project[static_cast<int>(block.dtype)];
    std::vector<double> partial(static_cast<std::size_t>(units.number() * num_vectors));
    parallel_for(units.number(), units.threads(threads), [&](std::int64_t unit) {
        std::vector<double> buffer(static_cast<std::size_t>(kProjectionRows * block.cols));
        double* own = partial.data() + unit * num_vectors;
        const std::int32_t* rows = plan.rows.get();
        const std::int64_t last = units.end(unit);
        for_each_run(plan, units.begin(unit), last,
                         [&](std::int64_t c, std::int64_t a, std::int64_t b) {
                             project({block, rows + a, b - a, rows + last}, means + c * block.cols,
                                     vectors, num_vectors, buffer.data(), own);
                         });
    });
    for (std::int64_t unit = 0; unit < units.number(); ++unit)
        for (std::int64_t v = 0; v < num_vectors; ++v) sums[v] += partial[unit * num_vectors + v];
}

}  // namespace

void projected_ss(const Matrix& feats, const Labels& labels, std::int64_t num_classes,
                  const double* means, const double* vectors, std::int64_t num_vectors,
                  double* sums, int threads) {
    const auto row_bytes = feats.stride * static_cast<std::int64_t>(size_of(feats.dtype));
    const std::int64_t step = std::min(feats.rows, rows_per_plan(feats, num_classes));
    std::fill(sums, sums + num_vectors, 0.0);
    Plan plan;
    bool valid = true;
    for (std::int64_t first = 0; first < feats.rows; first += step) {
        const std::int64_t count = std::min(step, feats.rows - first);
        sort_rows(labels, first, count, num_classes, threads, plan);
        valid = valid && plan.valid;
        Matrix block = feats;
        block.data = static_cast<const char*>(feats.data) + first * row_bytes;
        project_rows(block, plan, means, vectors, num_vectors, sums, threads);
    }
    if (!valid) std::fill(sums, sums + num_vectors, std::numeric_limits<double>::quiet_NaN());
}

namespace {

void merge(const PairSums& part, PairSums& all) {
    if (part.count == 0) return;
    const double total = all.count + part.count;
    for (int q = 0; q < kPairMeans; ++q) {
        const double step = part.mean[q] - all.mean[q];
        if (!std::isfinite(step)) {  // a difference of infinite means is NaN, their sum is infinite
            all.mean[q] += part.mean[q];
            all.squares[q] = std::numeric_limits<double>::quiet_NaN();
            continue;
        }
        all.squares[q] += part.squares[q] + step * step * all.count * (part.count / total);
        all.mean[q] += step * (part.count / total);
    }
    for (int q = 0; q < kPairMaxima; ++q) all.largest[q] = std::max(all.largest[q], part.largest[q]);
    all.count = total;
}

}  // namespace

PairSums class_pairs(const double* unit, const double* length, const double* variance,
                     std::int64_t number, std::int64_t cols, double simplex, double* nearest,
                     int threads) {
    const Products& use = kernels().products;
    const std::int64_t padded = round_up(number, use.panel);
    std::vector<double> panels(static_cast<std::size_t>(padded * cols));
    for (std::int64_t k = 0; k < number; ++k)
        for (std::int64_t d = 0; d < cols; ++d)
            panels[static_cast<std::size_t>(k / use.panel * use.panel * cols + d * use.panel +
                                            k % use.panel)] = unit[k * cols + d];
    std::vector<double> lengths(length, length + number), variances(variance, variance + number);
    lengths.resize(static_cast<std::size_t>(padded), 1);
    variances.resize(static_cast<std::size_t>(padded));
    const ClassMeans of{number, cols, unit, panels.data(), lengths.data(), variances.data(), simplex};
    const std::int64_t tasks = (number + kPairRows - 1) / kPairRows;
    std::vector<PairSums> parts(static_cast<std::size_t>(tasks));
    std::vector<double> smallest(static_cast<std::size_t>(padded), DBL_MAX);
    std::mutex mutex;
    parallel_for(tasks, threads, [&](std::int64_t task) {
        std::vector<double> own(static_cast<std::size_t>(padded), DBL_MAX);
        use.pair_block(of, task * kPairRows, std::min(kPairRows, number - task * kPairRows),
                       parts[static_cast<std::size_t>(task)], own.data());
        const std::lock_guard<std::mutex> lock(mutex);  // the order does not change a minimum
        for (std::size_t k = 0; k < own.size(); ++k) smallest[k] = std::min(smallest[k], own[k]);
    });
    PairSums all{};
    for (const PairSums& part : parts) merge(part, all);
    std::copy_n(smallest.begin(), number, nearest);
    return all;
}

}  // namespace ncfast

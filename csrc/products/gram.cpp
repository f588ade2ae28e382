#include <algorithm>
#include <vector>

#include "core/isa.h"
#include "core/pool.h"
#include "products/packed_rows.h"
#include "products/second_pass.h"

namespace ncfast {
namespace {

constexpr std::int64_t kMostPanel = 16, kLineDoubles = 8;
constexpr std::int64_t kPackRows = 64;         // of one task
constexpr std::int64_t kDistanceRows = 1024;
constexpr std::int64_t kOneThread = 1 << 22;   // products: to wake a thread takes as long
constexpr std::int64_t kMirrored = 32;         // rows and columns at once

// The square from (row, col) of the upper triangle on, transposed into the lower one. It passes
// through a buffer: rows a power of two apart push each other out of the cache.
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
    const std::int64_t width = kernels().products.panel;
    const auto size = static_cast<std::size_t>((cols + width - 1) / width * width * depth);
    memory_.reset(new double[size + kLineDoubles]);
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.get()) / sizeof(double);
    data = memory_.get() + (kLineDoubles - address % kLineDoubles) % kLineDoubles;
}

void PackedRows::add_products(double* total, int threads) const {
    const Products& use = kernels().products;
    const std::int64_t number = (cols + use.panel - 1) / use.panel;
    parallel_for(number, depth * cols * cols < kOneThread ? 1 : threads, [&](std::int64_t task) {
        use.add_gram(data, depth, number - 1 - task, total, cols);  // the longest first
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

}  // namespace ncfast

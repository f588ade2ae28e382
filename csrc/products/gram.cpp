#include <algorithm>
#include <vector>

#include "core/isa.h"
#include "core/pool.h"
#include "products/second_pass.h"

namespace ncfast {
namespace {

constexpr std::int64_t kBlockRows = 512;       // a panel of them stays in L2
constexpr std::int64_t kPackRows = 64;         // of one task
constexpr std::int64_t kDistanceRows = 1024;

std::int64_t round_up(std::int64_t value, std::int64_t step) {
    return (value + step - 1) / step * step;
}

}  // namespace

void scatter(const Matrix& feats, const std::int64_t* labels, const double* means, double* total,
             int threads) {
    const Products& use = kernels().products;
    const std::int64_t cols = feats.cols, width = round_up(cols, use.panel);
    std::vector<double> sums(static_cast<std::size_t>(width * width));
    std::vector<double> panels(static_cast<std::size_t>(width * kBlockRows));
    const auto pack = use.pack_deviations[static_cast<int>(feats.dtype)];
    for (std::int64_t first = 0; first < feats.rows; first += kBlockRows) {
        const std::int64_t depth = std::min(kBlockRows, feats.rows - first);
        Matrix block = feats;
        block.data = static_cast<const char*>(feats.data) +
                     first * feats.stride * static_cast<std::int64_t>(size_of(feats.dtype));
        parallel_for((depth + kPackRows - 1) / kPackRows, threads, [&](std::int64_t task) {
            std::vector<double> row(static_cast<std::size_t>(width));
            const std::int64_t begin = task * kPackRows;
            pack(block, labels + first, means, begin, std::min(kPackRows, depth - begin), depth,
                 row.data(), panels.data());
        });
        const std::int64_t number = width / use.panel;
        parallel_for(number, threads, [&](std::int64_t task) {  // the longest first
            use.add_gram(panels.data(), depth, number - 1 - task, sums.data(), width);
        });
    }
    for (std::int64_t i = 0; i < cols; ++i)
        for (std::int64_t j = i; j < cols; ++j)
            total[i * cols + j] = total[j * cols + i] = sums[static_cast<std::size_t>(i * width + j)];
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

// Rows packed for products of columns with columns: panels of columns, row after row in each.
#pragma once

#include <cstdint>
#include <memory>

namespace ncfast {

constexpr std::int64_t kGramRows = 512;  // at most, so that a panel stays in L2

struct PackedRows {
    std::int64_t depth;  // rows
    std::int64_t cols;
    double* data;  // column c of row i is at (c / width * depth + i) * width + c % width

    PackedRows(std::int64_t rows, std::int64_t cols);

    // Adds the sum of the outer products of the rows to the upper triangle of `total` (cols, cols).
    // Columns beyond the last have to be zero. The same bits for any number of threads.
    void add_products(double* total, int threads) const;

private:
    std::unique_ptr<double[]> memory_;
};

// Copies the upper triangle to the lower one.
void mirror(double* total, std::int64_t cols, int threads);

}  // namespace ncfast

// The kernels behind summary.cpp and spectrum.cpp that every instruction set has to provide.
#pragma once

#include <cstdint>

namespace ncfast {

struct SmallMatrix {
    int lanes;  // rows of a triangle are padded with zeros to a multiple of them
    // product (number, number) of the rows of two matrices (number, cols), which may be the same
    void (*row_products)(const double* left, const double* right, std::int64_t number,
                         std::int64_t cols, double* product);
    // R (number, stride), upper, of rows V (number, length) = R^T Q; overwrites V
    void (*triangle)(double* rows, std::int64_t number, std::int64_t length, double* out,
                     std::int64_t stride);
    // rotates every pair of rows to be orthogonal, in turn; whether all of them were
    bool (*sweep)(double* triangle, std::int64_t number, std::int64_t stride);
};

}  // namespace ncfast

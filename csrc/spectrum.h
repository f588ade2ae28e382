// Singular values of small matrices, many of the same shape one after another.
#pragma once

#include <vector>

#include "small_matrix_types.h"

namespace ncfast {

// Householder reflections turn the matrix into a triangle (products of its rows would square the
// condition number); one-sided Jacobi rotations make the rows of the triangle orthogonal, and their
// norms are the singular values (Demmel & Veselic 1992). At this size most of what LAPACK takes is
// not arithmetic.
class Spectrum {
public:
    Spectrum(std::int64_t rows, std::int64_t cols);

    // min(rows, cols) values, largest first; NaN throughout for a matrix that is not finite.
    const std::vector<double>& operator()(const double* matrix);

private:
    void load(const double* matrix, double scale);

    const SmallMatrix use_;
    const std::int64_t rows_, cols_, number_, length_, stride_;
    std::vector<double> vectors_;   // (number, length)
    std::vector<double> triangle_;  // (number, stride)
    std::vector<double> values_;
};

}  // namespace ncfast

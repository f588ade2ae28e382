// Singular values of small matrices, many of the same shape one after another.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "core/lines.h"
#include "summary/small_matrix_types.h"

namespace ncfast {

// Values of a spectrum at or below this share of the largest count as zero, for a matrix of that
// size; `rank_cutoff` in ncfast/ops/spectra.py is the same.
inline double rank_cutoff(std::int64_t size) {
    return static_cast<double>(size) * std::numeric_limits<double>::epsilon();
}

// Householder reflections turn the matrix into a triangle (products of its rows would square the
// condition number); one-sided Jacobi rotations make the rows of the triangle orthogonal, and their
// norms are the singular values (Demmel & Veselic 1992). At this size most of what LAPACK takes is
// not arithmetic.
class Spectrum {
public:
    Spectrum(std::int64_t rows, std::int64_t cols);

    // min(rows, cols) values, largest first; NaN throughout for a matrix that is not finite.
    const std::vector<double>& operator()(const double* matrix);

    // The same with zeros made exact: values at or below rank_cutoff(max(rows, cols)) times the
    // largest value, or times the mean norm of the features that the rows are means of.
    const std::vector<double>& nonzero(const double* matrix, double norm_mean);

private:
    void load(const double* matrix, double scale);

    const SmallMatrix use_;
    const std::int64_t rows_, cols_, number_, length_, stride_;
    LineVector<double> vectors_;   // (number, length)
    LineVector<double> triangle_;  // (number, stride)
    std::vector<double> values_;
};

}  // namespace ncfast

// Products, triangles and rotations of a few long rows in double, for summary.cpp and spectrum.h.
#pragma once

#include "core/isa.h"
#include "products/products.h"

namespace ncfast {
namespace NCFAST_ISA {

constexpr int kDotRows = 4;
constexpr int kDotCols = NCFAST_VECTOR_BYTES == 64 ? 4 : 2;  // all sums fit in registers

// Computes sums[r][c] = <row r of left, row c of right>.
inline void dot_tile(const double* const (&left)[kDotRows], const double* const (&right)[kDotCols],
                     std::int64_t cols, double (&sums)[kDotRows][kDotCols]) {
    VecD total[kDotRows][kDotCols] = {};
    const auto add = [&](auto at) {
        VecD columns[kDotCols];
        for (int c = 0; c < kDotCols; ++c) columns[c] = at(right[c]);
#pragma GCC unroll 4
        for (int r = 0; r < kDotRows; ++r) {
            const VecD row = at(left[r]);
#pragma GCC unroll 4
            for (int c = 0; c < kDotCols; ++c) total[r][c] += row * columns[c];
        }
    };
    std::int64_t d = 0;
    for (; d + kLanes<double> <= cols; d += kLanes<double>)
        add([d](const double* row) { return load(row + d); });
    if (d < cols)
        add([=](const double* row) { return load_part(row + d, static_cast<int>(cols - d)); });
    for (int r = 0; r < kDotRows; ++r)
        for (int c = 0; c < kDotCols; ++c) sums[r][c] = sum_lanes(total[r][c]);
}

template <int Number>
inline void pick_rows(const double* rows, std::int64_t first, std::int64_t number,
                      std::int64_t cols, const double* (&out)[Number]) {
    for (int r = 0; r < Number; ++r) out[r] = rows + least(first + r, number - 1) * cols;
}

// The products of all rows of `left` and `right`, half of them if both are the same.
void row_products(const double* left, const double* right, std::int64_t number, std::int64_t cols,
                  double* product) {
    const bool symmetric = left == right;
    for (std::int64_t i = 0; i < number; i += kDotRows)
        for (std::int64_t j = 0, end = symmetric ? least(i + kDotRows, number) : number; j < end;
             j += kDotCols) {
            const double *rows[kDotRows], *columns[kDotCols];
            pick_rows(left, i, number, cols, rows);
            pick_rows(right, j, number, cols, columns);
            double sums[kDotRows][kDotCols];
            dot_tile(rows, columns, cols, sums);
            for (std::int64_t r = 0; r < least(kDotRows, number - i); ++r)
                for (std::int64_t c = 0; c < least(kDotCols, number - j); ++c) {
                    product[(i + r) * number + j + c] = sums[r][c];
                    if (symmetric) product[(j + c) * number + i + r] = sums[r][c];
                }
        }
}

// Subtracts share * mirror from row.
inline void subtract(double* row, const double* mirror, double share, std::int64_t cols) {
    std::int64_t d = 0;
    for (; d + kLanes<double> <= cols; d += kLanes<double>)
        store(row + d, load(row + d) - share * load(mirror + d));
    for (; d < cols; ++d) row[d] -= share * mirror[d];
}

// Turns the rows into an upper triangle by one Householder reflection a row. Row i keeps the mirror of
// its reflection, from column i on.
void triangle(double* rows, std::int64_t number, std::int64_t length, double* out,
              std::int64_t stride) {
    std::memset(out, 0, static_cast<std::size_t>(number * stride) * sizeof(double));
    for (std::int64_t i = 0; i < number; ++i) {
        double* mirror = rows + i * length + i;
        const std::int64_t left = length - i;
        const double norm = __builtin_sqrt(dot(mirror, mirror, left));
        const double diagonal = mirror[0] > 0 ? -norm : norm;
        out[i * stride + i] = diagonal;
        const bool reflects = norm != 0;
        if (reflects) mirror[0] -= diagonal;
        const double factor = reflects ? -1 / (diagonal * mirror[0]) : 0;
        for (std::int64_t j = i + 1; j < number; ++j) {
            double* row = rows + j * length + i;
            subtract(row, mirror, factor * dot(mirror, row, left), left);
            out[i * stride + j] = row[0];
        }
    }
}

// Applies the reflections of triangle in reverse order to each row (number, length): coordinates
// along the rows of Q, in its first `number` entries, become their combination.
void reflect_back(const double* mirrors, std::int64_t number, std::int64_t length, double* rows) {
    for (std::int64_t i = number - 1; i >= 0; --i) {
        const double* mirror = mirrors + i * length + i;
        const std::int64_t left = length - i;
        const double size = dot(mirror, mirror, left), factor = size != 0 ? 2 / size : 0;
        for (std::int64_t r = 0; r < number; ++r) {
            double* row = rows + r * length + i;
            subtract(row, mirror, factor * dot(mirror, row, left), left);
        }
    }
}

inline double dot_padded(const double* a, const double* b, std::int64_t stride) {
    VecD total = {};
    for (std::int64_t d = 0; d < stride; d += kLanes<double>) total += load(a + d) * load(b + d);
    return sum_lanes(total);
}

// Rotates the rows p and q in their plane.
inline void rotate(double* p, double* q, std::int64_t stride, double cosine, double sine) {
    for (std::int64_t d = 0; d < stride; d += kLanes<double>) {
        const VecD x = load(p + d), y = load(q + d);
        store(p + d, cosine * x - sine * y);
        store(q + d, sine * x + cosine * y);
    }
}

// One round of Jacobi rotations over all pairs of rows, which makes their first `width` columns
// orthogonal and rotates the others along. True if all pairs were orthogonal already.
bool rotate_all(double* rows, std::int64_t number, std::int64_t width, std::int64_t stride) {
    const double close = 0x1p-52 * static_cast<double>(number);
    bool done = true;
    for (std::int64_t i = 0; i < number; ++i)
        for (std::int64_t j = i + 1; j < number; ++j) {
            double *p = rows + i * stride, *q = rows + j * stride;
            const double a = dot_padded(p, p, width), b = dot_padded(q, q, width);
            const double c = dot_padded(p, q, width);
            if (!(c * c > close * close * a * b)) continue;
            const double zeta = (b - a) / (2 * c);
            const double size = __builtin_fabs(zeta) + __builtin_sqrt(1 + zeta * zeta);
            const double tangent = __builtin_copysign(1 / size, zeta);
            const double cosine = 1 / __builtin_sqrt(1 + tangent * tangent);
            rotate(p, q, stride, cosine, cosine * tangent);
            done = false;
        }
    return done;
}

}  // namespace NCFAST_ISA
}  // namespace ncfast

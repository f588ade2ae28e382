// Squared projections of the deviations from a class mean on a few vectors, in double.
#pragma once

#include "moments/segment.h"

namespace ncfast {
namespace NCFAST_ISA {

// Writes x - mean in double.
template <class T>
inline void deviations(const T* x, const double* mean, std::int64_t cols, double* out) {
    constexpr int kParts = Doubles<T>::kParts, kStep = kParts * kLanes<double>;
    VecD values[kParts];
    std::int64_t col = 0;
    for (; col + kStep <= cols; col += kStep) {
        Doubles<T>::load_from(x + col, values);
        for (int p = 0; p < kParts; ++p) {
            const std::int64_t at = col + p * kLanes<double>;
            store(out + at, values[p] - load(mean + at));
        }
    }
    if (col == cols) return;
    const auto left = static_cast<std::size_t>(cols - col);
    double last[kStep], own[kStep] = {};
    Doubles<T>::load_part_from(x + col, static_cast<int>(left), values);
    std::memcpy(own, mean + col, left * sizeof(double));
    for (int p = 0; p < kParts; ++p)
        store(last + p * kLanes<double>, values[p] - load(own + p * kLanes<double>));
    std::memcpy(out + col, last, left * sizeof(double));
}

// Adds <deviation, vector>^2 over R rows to the sum of each of V vectors.
template <int R, int V>
inline void dots(const double* deviation, const double* vectors, std::int64_t cols, double* sums) {
    constexpr int kStep = kLanes<double>;
    VecD total[R][V] = {};
    const auto step = [&](auto load_from, std::int64_t d) __attribute__((always_inline)) {
        VecD row[R];
        for (int r = 0; r < R; ++r) row[r] = load_from(deviation + r * cols + d);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            const VecD vector = load_from(vectors + v * cols + d);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) total[r][v] += row[r] * vector;
        }
    };
    std::int64_t d = 0;
    for (; d + kStep <= cols; d += kStep)
        step([](const double* x) __attribute__((always_inline)) { return load(x); }, d);
    if (d < cols) {
        const int left = static_cast<int>(cols - d);
        step([left](const double* x) __attribute__((always_inline)) { return load_part(x, left); },
             d);
    }
    for (int v = 0; v < V; ++v)
        for (int r = 0; r < R; ++r) {
            const double dot = sum_lanes(total[r][v]);
            sums[v] += dot * dot;
        }
}

template <int R>
inline void all_dots(const double* deviation, const double* vectors, std::int64_t num_vectors,
                     std::int64_t cols, double* sums) {
    std::int64_t v = 0;
    for (; v + 4 <= num_vectors; v += 4) dots<R, 4>(deviation, vectors + v * cols, cols, sums + v);
    for (; v < num_vectors; ++v) dots<R, 1>(deviation, vectors + v * cols, cols, sums + v);
}

template <class T>
void project(const Run& run, const double* mean, const double* vectors, std::int64_t num_vectors,
             double* buffer, double* sums) {
    const std::int64_t cols = run.matrix.cols;
    const T* data = static_cast<const T*>(run.matrix.data);
    const std::int64_t known = run.rows_end - run.rows;
    for (std::int64_t i = 0; i < run.count; i += kProjectionRows) {
        const int rows = static_cast<int>(least(kProjectionRows, run.count - i));
        for (int r = 0; r < rows; ++r) {
            const std::int64_t next = run.rows[least(i + r + kProjectionRows, known - 1)];
            for (std::int64_t d = 0; d < cols; d += 64 / static_cast<int>(sizeof(T)))
                prefetch(data + next * run.matrix.stride + d);
            deviations(data + run.rows[i + r] * run.matrix.stride, mean, cols, buffer + r * cols);
        }
        if (rows == kProjectionRows) {
            all_dots<kProjectionRows>(buffer, vectors, num_vectors, cols, sums);
        } else {
            for (int r = 0; r < rows; ++r)
                all_dots<1>(buffer + r * cols, vectors, num_vectors, cols, sums);
        }
    }
}

}  // namespace NCFAST_ISA
}  // namespace ncfast

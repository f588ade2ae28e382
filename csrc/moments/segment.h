// A segment: up to kSegmentRows rows of one class, summed relative to one pilot, strip by strip.
#pragma once

#include "core/isa.h"
#include "moments/tile.h"

namespace ncfast {
namespace NCFAST_ISA {

constexpr int kSegmentRows = 64;
constexpr int kAheadBytes = 8192;  // enough cache lines in flight to hide the latency of memory

template <class T>
struct Segment {
    const T* data;
    std::int64_t stride;
    std::int64_t cols;
    const std::int32_t* rows;
    const std::int32_t* rows_end;  // end of the rows that this thread reads next
    int count;
    int lookahead;  // rows between a row and the row prefetched for it
    bool scattered;

    const T* row(std::int64_t i, std::int64_t col) const { return data + rows[i] * stride + col; }
};

// The lookahead in rows: one tile if rows are cut into strips, else about kAheadBytes.
template <class T>
inline int lookahead(std::int64_t cols) {
    if (cols > kStrip<T>) return kTileRows;
    return kTileRows * (1 + kAheadBytes / (kTileRows * static_cast<int>(cols * sizeof(T))));
}

// The address that is read `lookahead` rows after row i of strip `col`.
template <class T>
inline const T* ahead_of(const Segment<T>& segment, std::int64_t i, std::int64_t col) {
    const std::int64_t next = i + segment.lookahead;
    const std::int64_t last = segment.rows_end - segment.rows - 1;
    if (segment.cols <= kStrip<T>) return segment.row(least(next, last), 0);
    if (next < segment.count) return segment.row(next, col);
    if (col + kStrip<T> < segment.cols)
        return segment.row(least(next - segment.count, segment.count - 1), col + kStrip<T>);
    return segment.row(least(next, last), 0);
}

template <class T, int R>
inline void one_tile(const Segment<T>& segment, int i, std::int64_t col, int width,
                     const Compute<T>* pilot, Compute<T>* shift_sum, VecD& deviation_ss,
                     double* norm_ss) {
    const T* rows[R];
    const T* ahead[R];
    for (int r = 0; r < R; ++r) {
        rows[r] = segment.row(i + r, col);
        ahead[r] = ahead_of(segment, i + r, col);
    }
    tile<T, R>(rows, ahead, pilot, shift_sum, width, segment.scattered, deviation_ss, norm_ss);
}

// Sums one strip of all rows. Returns sum |x - pilot|^2 and adds each row's |x|^2 to norm_ss.
template <class T>
inline double strip(const Segment<T>& segment, std::int64_t col, int width, const Compute<T>* pilot,
                    Compute<T>* shift_sum, double* norm_ss) {
    VecD deviation_ss = {};
    int i = 0;
    for (; i + kTileRows <= segment.count; i += kTileRows) {
        one_tile<T, kTileRows>(segment, i, col, width, pilot, shift_sum, deviation_ss, norm_ss + i);
    }
    const int left = segment.count - i;
    if (left == 1) one_tile<T, 1>(segment, i, col, width, pilot, shift_sum, deviation_ss, norm_ss + i);
    if (left == 2) one_tile<T, 2>(segment, i, col, width, pilot, shift_sum, deviation_ss, norm_ss + i);
    if (left == 3) one_tile<T, 3>(segment, i, col, width, pilot, shift_sum, deviation_ss, norm_ss + i);
    return sum_lanes(deviation_ss);
}

// The same in double for values whose squares leave the range of float; several times slower.
template <class T>
__attribute__((noinline)) double wide_strip(const Segment<T>& segment, std::int64_t col, int width,
                                            const Compute<T>* pilot, double* shift_sum) {
    constexpr int kStep = kLanes<double>;
    VecD deviation_ss = {};
    for (int i = 0; i < segment.count; ++i) {
        const T* x = segment.row(i, col);
        for (int d = 0; d < width; d += 2 * kStep) {
            VecD value[2], around[2];
            widen_halves(load_most(x + d, width - d), value[0], value[1]);
            widen_halves(load(pilot + d), around[0], around[1]);
            for (int half = 0; half < 2; ++half) {
                const VecD deviation = value[half] - around[half];
                double* total = shift_sum + d + half * kStep;
                store(total, load(total) + deviation);
                deviation_ss += deviation * deviation;
            }
        }
    }
    return sum_lanes(deviation_ss);
}
template <>
inline double wide_strip(const Segment<double>&, std::int64_t, int, const double*, double*) {
    return 0;  // never called: in_range is true for double
}

template <class T>
__attribute__((noinline)) double wide_norm_ss(const T* x, std::int64_t cols) {
    VecD norm_ss = {};
    for (std::int64_t d = 0; d < cols; d += kLanes<float>) {
        VecD low, high;
        widen_halves(load_most(x + d, cols - d), low, high);
        norm_ss += low * low + high * high;
    }
    return sum_lanes(norm_ss);
}
template <>
inline double wide_norm_ss(const double*, std::int64_t) {
    return 0;
}

// Whether a sum of `terms` squares in Compute<T> neither overflowed nor lost terms to underflow.
template <class T>
inline bool in_range(double sum_of_squares, double terms) {
    if (sizeof(Compute<T>) == sizeof(double)) return true;
    return (sum_of_squares >= 1e-30 * terms) & (sum_of_squares <= FLT_MAX);
}

}  // namespace NCFAST_ISA
}  // namespace ncfast

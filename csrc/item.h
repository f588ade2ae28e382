// An item: up to kItemRows rows of one class, summed relative to one pilot, strip by strip.
#pragma once

#include "kernels.h"
#include "tile.h"

namespace ncfast {
namespace NCFAST_ISA {

constexpr int kItemRows = 64;
constexpr int kAheadBytes = 8192;  // enough lines in flight to cover the latency of memory

template <class T>
struct Item {
    const T* data;
    std::int64_t stride;
    std::int64_t cols;
    const std::int32_t* rows;
    const std::int32_t* rows_end;  // of everything this thread will still read
    int count;

    const T* row(std::int64_t i, std::int64_t col) const { return data + rows[i] * stride + col; }
};

// Which strip of which row will be needed about kAheadBytes after row i of strip `col`.
template <class T>
inline const T* ahead_of(const Item<T>& item, int i, std::int64_t col) {
    const std::int64_t last = item.rows_end - item.rows - 1;
    if (item.cols <= kStrip<T>) {
        const std::int64_t tile_bytes = kTileRows * item.cols * static_cast<int>(sizeof(T));
        const std::int64_t tiles = 1 + kAheadBytes / tile_bytes;
        return item.row(least(i + tiles * kTileRows, last), 0);
    }
    const int next = i + kTileRows;
    if (next < item.count) return item.row(next, col);
    if (col + kStrip<T> < item.cols)
        return item.row(least(next - item.count, item.count - 1), col + kStrip<T>);
    return item.row(least(next, last), 0);
}

template <class T, int R>
inline void one_tile(const Item<T>& item, int i, std::int64_t col, int width,
                     const Compute<T>* pilot, Compute<T>* shift_sum, TileSums<T>& sums) {
    const T* rows[R];
    const T* ahead[R];
    for (int r = 0; r < R; ++r) {
        rows[r] = item.row(i + r, col);
        ahead[r] = ahead_of(item, i + r, col);
    }
    tile<T, R>(rows, ahead, pilot, shift_sum, width, sums);
}

// One strip of all rows. Returns sum |x - pilot|^2 and adds each row's |x|^2 to norm_ss.
template <class T>
inline double strip(const Item<T>& item, std::int64_t col, int width, const Compute<T>* pilot,
                    Compute<T>* shift_sum, double* norm_ss) {
    TileSums<T> sums;
    int i = 0;
    for (; i + kTileRows <= item.count; i += kTileRows) {
        one_tile<T, kTileRows>(item, i, col, width, pilot, shift_sum, sums);
        for (int r = 0; r < kTileRows; ++r) norm_ss[i + r] += sums.norm_ss[r];
    }
    const int left = item.count - i;
    if (left == 1) one_tile<T, 1>(item, i, col, width, pilot, shift_sum, sums);
    if (left == 2) one_tile<T, 2>(item, i, col, width, pilot, shift_sum, sums);
    if (left == 3) one_tile<T, 3>(item, i, col, width, pilot, shift_sum, sums);
    for (int r = 0; r < left; ++r) norm_ss[i + r] += sums.norm_ss[r];
    return sum_lanes(sums.deviation_ss);
}

template <class T>
inline double scalar(T x) {
    return load_part(&x, 1)[0];
}

// The same in double throughout, for values whose squares leave the range of float.
template <class T>
__attribute__((noinline)) double wide_strip(const Item<T>& item, std::int64_t col, int width,
                                            const Compute<T>* pilot, double* shift_sum) {
    double deviation_ss = 0;
    for (int i = 0; i < item.count; ++i) {
        const T* x = item.row(i, col);
        for (int d = 0; d < width; ++d) {
            const double deviation = scalar(x[d]) - pilot[d];
            shift_sum[d] += deviation;
            deviation_ss += deviation * deviation;
        }
    }
    return deviation_ss;
}

template <class T>
__attribute__((noinline)) double wide_norm_ss(const T* x, std::int64_t cols) {
    double norm_ss = 0;
    for (std::int64_t d = 0; d < cols; ++d) norm_ss += scalar(x[d]) * scalar(x[d]);
    return norm_ss;
}

// Whether a sum of `terms` squares in Compute<T> neither overflowed nor lost terms to underflow.
template <class T>
inline bool in_range(double sum_of_squares, double terms) {
    if (sizeof(Compute<T>) == sizeof(double)) return true;
    return sum_of_squares >= 1e-30 * terms && sum_of_squares <= FLT_MAX;
}

}  // namespace NCFAST_ISA
}  // namespace ncfast

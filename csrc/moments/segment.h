// A segment: up to kSegmentRows rows of one class, summed relative to one pilot, strip by strip. The
// innermost loop holds a few rows and a strip of columns in registers.
#pragma once

#include "core/isa.h"
#include "core/simd.h"

namespace ncfast {

constexpr int kMostLines = 32;  // of a row, in one strip

// The order in which the cache lines of a row are read if the rows are spread over memory.
//
// If lines are read front to back, hardware prefetchers continue past the end of the row and fetch
// lines that nobody reads. They see no stream in bit-reversed order, and software prefetches
// replace them. Adjacent rows that are read soon are better read front to back.
struct ScatteredLines {
    std::uint8_t order[kMostLines + 1][kMostLines] = {};  // [number of lines][step]

    constexpr ScatteredLines() {
        for (int lines = 1; lines <= kMostLines; ++lines) {
            int bits = 0, step = 0;
            while ((1 << bits) < lines) ++bits;
            for (int i = 0; i < 1 << bits; ++i) {
                int reversed = 0;
                for (int b = 0; b < bits; ++b) reversed |= (i >> b & 1) << (bits - 1 - b);
                if (reversed < lines) order[lines][step++] = static_cast<std::uint8_t>(reversed);
            }
        }
    }
};
constexpr ScatteredLines kScatteredLines;

namespace NCFAST_ISA {

constexpr int kTileRows = 4;
// The columns of a strip. At most 32 terms enter a lane before it is added in double, which bounds
// rounding for any data.
template <class T>
constexpr int kStrip = 32 * kLanes<Compute<T>>;

template <class T, int R>
struct TileRegisters {
    Vec<Compute<T>> deviation_ss[R] = {};
    Vec<Compute<T>> norm_ss[R] = {};

    inline __attribute__((always_inline)) Vec<Compute<T>> add(int r, Vec<Compute<T>> x,
                                                              Vec<Compute<T>> pilot) {
        const Vec<Compute<T>> deviation = x - pilot;
        norm_ss[r] += x * x;
        deviation_ss[r] += deviation * deviation;
        return deviation;
    }
};

// Prefetches into L2. Prefetches into L1 would occupy its few miss buffers until memory answers:
// on an AMD EPYC with slow memory they made most passes take 1.1 to 1.8 times as long.
inline __attribute__((always_inline)) void prefetch(const void* line) {
    __builtin_prefetch(line, 0, 2);
}

// Adds the sum of the lanes of each of R vectors to norm_ss[r].
template <class V, int R>
inline __attribute__((always_inline)) void add_lanes(const V (&lanes)[R], double* norm_ss) {
    for (int r = 0; r < R; ++r) norm_ss[r] += sum_lanes(to_double_lanes(lanes[r]));
}
inline __attribute__((always_inline)) void add_lanes(const VecF (&lanes)[4], double* norm_ss) {
    float sums[4];
    sum_lanes_of_four(lanes, sums);
    for (int r = 0; r < 4; ++r) norm_ss[r] += sums[r];
}

// Adds R rows: sum of (x - pilot) to shift_sum, |x - pilot|^2 to the lanes of deviation_ss, |x|^2
// of each row to norm_ss[r]. Pilot and shift_sum are padded to whole vectors.
template <class T, int R>
inline __attribute__((always_inline)) void tile(const T* const* rows, const T* const* ahead,
                                                const Compute<T>* pilot, Compute<T>* shift_sum,
                                                int width, bool scattered, VecD& deviation_ss,
                                                double* norm_ss) {
    constexpr int kStep = kLanes<Compute<T>>;
    constexpr int kLine = 64 / static_cast<int>(sizeof(T));
    TileRegisters<T, R> registers;
    const auto step = [&](int d, auto load_row) __attribute__((always_inline)) {
        const Vec<Compute<T>> around = load(pilot + d);
        Vec<Compute<T>> total = load(shift_sum + d);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) total += registers.add(r, load_row(rows[r] + d), around);
        store(shift_sum + d, total);
    };
    const auto whole = [](const T* x) __attribute__((always_inline)) { return pinned(load(x)); };

    static_assert(kStrip<T> / kLine <= kMostLines, "orders are too short");
    const int lines = width / kLine;
    const auto add_line = [&](int next, int at) __attribute__((always_inline)) {
        for (int r = 0; r < R; ++r) prefetch(ahead[r] + next);
#pragma GCC unroll 8
        for (int u = 0; u < kLine; u += kStep) step(at + u, whole);
    };
    if (scattered) {
        const std::uint8_t* order = kScatteredLines.order[lines];
        for (int line = 0; line < lines; ++line) add_line(line * kLine, order[line] * kLine);
    } else {
        for (int at = 0; at < lines * kLine; at += kLine) add_line(at, at);
    }
    int d = lines * kLine;
    if (d < width) {
        for (int r = 0; r < R; ++r) prefetch(ahead[r] + d);
        for (; d + kStep <= width; d += kStep) step(d, whole);
    }
    if (d < width) {
        const int left = width - d;
        step(d, [left](const T* x) __attribute__((always_inline)) { return pinned(load_part(x, left)); });
    }
    Vec<Compute<T>> total_ss = registers.deviation_ss[0];
    for (int r = 1; r < R; ++r) total_ss += registers.deviation_ss[r];
    deviation_ss += to_double_lanes(total_ss);
    add_lanes(registers.norm_ss, norm_ss);
}

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

// The innermost loop of class moments: a few rows of one class, a strip of columns, in registers.
#pragma once

#include "core/simd.h"
#include "core/system.h"

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

// Prefetches into L2. Prefetches into L1 would occupy its few miss buffers until memory answers,
// which halves the bandwidth of a gather.
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

}  // namespace NCFAST_ISA
}  // namespace ncfast

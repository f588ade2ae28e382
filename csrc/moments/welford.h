// Adds the rows of a class to its mean and sum of squares one after another, in double (Welford
// 1962).
//
// Each row is taken relative to the mean of the rows before it, so nothing cancels: there is no
// pilot to choose, and no range of values needs another path. Identical rows give exactly 0.
#pragma once

#include "core/isa.h"
#include "core/simd.h"

namespace ncfast {
namespace NCFAST_ISA {

constexpr int kBlockCols = 16;  // one cache line of float features, two of means

template <class T>
constexpr int kStepCols = Doubles<T>::kParts * kLanes<double>;

// Reads and writes all columns of a step.
struct WholeStep {
    template <class T>
    inline __attribute__((always_inline)) void read(const T* from, VecD* to) const {
        Doubles<T>::load_from(from, to);
    }
    inline __attribute__((always_inline)) VecD mean(const double* from, int) const {
        return load(from);
    }
    inline __attribute__((always_inline)) void put(double* to, VecD value, int) const {
        store(to, value);
    }
};

// Reads and writes the `left` columns that a step still has; the others are 0.
struct PartOfStep {
    std::int64_t left;

    int of(int part, int most) const {
        const std::int64_t count = left - part * kLanes<double>;
        return count < 0 ? 0 : static_cast<int>(least(count, most));
    }
    template <class T>
    inline __attribute__((always_inline)) void read(const T* from, VecD* to) const {
        Doubles<T>::load_part_from(from, of(0, kStepCols<T>), to);
    }
    inline __attribute__((always_inline)) VecD mean(const double* from, int part) const {
        return load_part(from, of(part, kLanes<double>));
    }
    inline __attribute__((always_inline)) void put(double* to, VecD value, int part) const {
        const auto count = static_cast<std::size_t>(of(part, kLanes<double>));
        std::memcpy(to, &value, count * sizeof(double));
    }
};

inline double* place_of(const Deviations& to, std::int64_t row, std::int64_t col) {
    constexpr int kWidth = kPanel<double>;
    return to.panels + (col / kWidth * to.depth + to.row + row) * kWidth + col % kWidth;
}

// R rows of a class that are added together.
template <class T, int R>
struct JoiningRows {
    const T* rows[R];
    const T* ahead[R];  // the rows after them, to be prefetched
    double grow[R];     // 1 / (k + 1) for a row that comes after k others
    double root[R];     // sqrt(k / (k + 1))
    VecD norm_ss[R] = {};
    VecD deviation_ss[R] = {};

    JoiningRows(const Run& run, std::int64_t first, std::int64_t count) {
        const auto* data = static_cast<const T*>(run.matrix.data);
        const std::int64_t last = run.rows_end - run.rows - 1;
        for (int r = 0; r < R; ++r) {
            const auto before = static_cast<double>(count + r);
            rows[r] = data + run.rows[first + r] * run.matrix.stride;
            ahead[r] = data + run.rows[least(first + R + r, last)] * run.matrix.stride;
            grow[r] = 1 / (before + 1);
            root[r] = __builtin_sqrt(before * grow[r]);
        }
    }

    // Adds one step of columns. With Keep, sqrt(k / (k + 1)) (x - mean) of each row goes to `to`:
    // the sum of the outer products of these is what the rows add to the scatter matrix.
    template <bool Keep, class Step>
    inline __attribute__((always_inline)) void add(const Step& step, std::int64_t col, bool fresh,
                                                   double* mean, const Deviations& to) {
        constexpr int kParts = Doubles<T>::kParts;
        VecD now[kParts];
        if (fresh) {
            step.read(rows[0] + col, now);  // the mean of a class without rows is not read
        } else {
            for (int p = 0; p < kParts; ++p) now[p] = step.mean(mean + col + p * kLanes<double>, p);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            VecD values[kParts];
            step.read(rows[r] + col, values);
#pragma GCC unroll 2
            for (int p = 0; p < kParts; ++p) {
                const VecD deviation = values[p] - now[p];
                norm_ss[r] += values[p] * values[p];
                deviation_ss[r] += deviation * deviation;
                now[p] += deviation * grow[r];
                if (Keep) store(place_of(to, r, col + p * kLanes<double>), deviation * root[r]);
            }
        }
        for (int p = 0; p < kParts; ++p) step.put(mean + col + p * kLanes<double>, now[p], p);
    }
};

// Adds rows first .. first + R of the run. The data needed next are prefetched line by line.
template <class T, int R, bool Keep>
inline void join_rows(const Joining& of, std::int64_t first, ClassState& state, Norms& norms) {
    constexpr int kStep = kStepCols<T>, kLine = 64 / static_cast<int>(sizeof(T));
    const std::int64_t cols = of.run.matrix.cols;
    JoiningRows<T, R> rows(of.run, first, state.count);
    const double* next_mean = first + R < of.run.count ? state.mean : of.next_mean;
    Deviations to = of.deviations;
    to.row += first;
    const bool fresh = state.count == 0;
    std::int64_t col = 0;
    for (; col + kBlockCols <= cols; col += kBlockCols) {
        __builtin_prefetch(next_mean + col);
        __builtin_prefetch(next_mean + col + 8);
        for (int r = 0; r < R; ++r)
            for (int at = 0; at < kBlockCols; at += kLine)
                __builtin_prefetch(rows.ahead[r] + col + at);
#pragma GCC unroll 8
        for (int at = 0; at < kBlockCols; at += kStep)
            rows.template add<Keep>(WholeStep{}, col + at, fresh, state.mean, to);
    }
    constexpr int kWidth = kPanel<double>;
    const std::int64_t end = Keep ? (cols + kWidth - 1) / kWidth * kWidth : cols;
    for (; col < end; col += kStep)
        rows.template add<Keep>(PartOfStep{cols - col}, col, fresh, state.mean, to);
    for (int r = 0; r < R; ++r) {
        const double norm = __builtin_sqrt(sum_lanes(rows.norm_ss[r]));
        norms.sum += norm;
        norms.max = norm > norms.max ? norm : norms.max;  // the sum keeps a NaN
        state.within_ss += sum_lanes(rows.deviation_ss[r]) *
                           (static_cast<double>(state.count + r) * rows.grow[r]);
    }
    state.count += R;
}

template <class T, bool Keep>
inline void join_all(const Joining& of, ClassState& state, Norms& norms) {
    std::int64_t i = 0;
    for (; i + 4 <= of.run.count; i += 4) join_rows<T, 4, Keep>(of, i, state, norms);
    if (i + 2 <= of.run.count) join_rows<T, 2, Keep>(of, i, state, norms), i += 2;
    if (i < of.run.count) join_rows<T, 1, Keep>(of, i, state, norms);
}

template <class T>
void join(const Joining& of, ClassState& state, Norms& norms) {
    if (of.deviations.panels == nullptr) {
        join_all<T, false>(of, state, norms);
    } else {
        join_all<T, true>(of, state, norms);
    }
}

}  // namespace NCFAST_ISA
}  // namespace ncfast

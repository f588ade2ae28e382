// Adds the rows of one class to its count, mean and sum of squared deviations.
//
// Rows are summed in segments relative to a pilot: the mean so far, or the first row for the first
// segment, which is short. Segments are merged in double (Chan, Golub & LeVeque 1983). The terms
// that cancel in a segment are therefore never much larger than the result, even if the first row
// of the class is an outlier. The tests hold the relative error to 1e-6 with float sums.
#pragma once

#include <type_traits>
#include <vector>

#include "moments/segment.h"

namespace ncfast {
namespace NCFAST_ISA {

// Starts a class with its first row: a copy and a norm. This is the common case if K is close to N.
template <class T>
inline void add_single(const Segment<T>& segment, ClassState& state, Norms& norms) {
    constexpr int kStep = kLanes<Compute<T>>;
    const T* x = segment.row(0, 0);
    const T* ahead = segment.row(least(segment.lookahead, segment.rows_end - segment.rows - 1), 0);
    VecD norm_ss = {}, deviation = {};
    for (std::int64_t d = 0; d < segment.cols; d += kStep) {
        prefetch(ahead + d);
        VecD values[2];
        const int parts = as_doubles(load_most(x + d, segment.cols - d), values);
        for (int i = 0; i < parts; ++i) {
            norm_ss += values[i] * values[i];
            deviation += values[i] - values[i];  // 0, or NaN if the feature is not finite
        }
        const std::int64_t width = least(kStep, segment.cols - d);
        std::memcpy(state.mean + d, values, static_cast<std::size_t>(width) * sizeof(double));
    }
    const double norm = __builtin_sqrt(sum_lanes(norm_ss));
    norms.sum += norm;
    norms.max = norm > norms.max ? norm : norms.max;
    state.count = 1;
    state.within_ss += sum_lanes(deviation);
}

constexpr int kFirstSegmentRows = 8;

struct Fold {
    double shift_ss = 0;  // |segment mean - pilot|^2
    double delta_ss = 0;  // |segment mean - mean so far|^2
};

template <class C>
inline __attribute__((always_inline)) VecD load_double(const C* x) {
    VecD value;
    Doubles<C>::load_from(x, &value);
    return value;
}

// What the mean of a class in double loses when it is rounded: the true mean is `mean + low`. A
// spread of 1e-14 of the mean is no larger than that rounding. Float features need no such part.
inline __attribute__((always_inline)) VecD moved(VecD from, VecD by, double* low) {
    const VecD now = from + by;
    if (low != nullptr) {
        const VecD part = now - from;
        store(low, (from - (now - part)) + (by - part));
    }
    return now;
}

// Moves `mean` (width entries) to the mean of the class with the segment. `share` is the segment's
// part of the count. `low` is padded to whole vectors, or null.
template <bool First, class P, class S>
inline Fold fold(double* mean, double* low, const P* pilot, const S* shift_sum, int width,
                 double rows, double share) {
    constexpr int kStep = kLanes<double>;
    VecD shift_ss = {}, delta_ss = {};
    const double inverse = 1 / rows;
    const auto step = [&](VecD old, int d) __attribute__((always_inline)) {
        const VecD origin = load_double(pilot + d);
        const VecD shift = load_double(shift_sum + d) * inverse;
        shift_ss += shift * shift;
        double* rest = low == nullptr ? nullptr : low + d;
        if (First) return moved(origin, shift, rest);
        const VecD before = rest == nullptr ? VecD{} : load(rest);
        const VecD delta = shift + ((origin - old) - before);
        delta_ss += delta * delta;
        return moved(old, before + delta * share, rest);
    };
    int d = 0;
    for (; d + kStep <= width; d += kStep)
        store(mean + d, step(First ? VecD{} : load_bits<VecD>(mean + d), d));
    if (d < width) {
        // The padding of pilot and shift_sum is 0 and adds nothing.
        const std::size_t bytes = static_cast<std::size_t>(width - d) * sizeof(double);
        VecD old = {};
        if (!First) std::memcpy(&old, mean + d, bytes);
        const VecD now = step(old, d);
        std::memcpy(mean + d, &now, bytes);
    }
    return {sum_lanes(shift_ss), sum_lanes(delta_ss)};
}

// The pilot is the mean so far, or the first row of an empty class.
template <class T>
inline void set_pilot(const Segment<T>& segment, const ClassState& state, std::int64_t col, int width,
                      Compute<T>* pilot) {
    constexpr int kStep = kLanes<Compute<T>>;
    if (state.count > 0) {
        for (int d = 0; d < width; ++d) pilot[d] = static_cast<Compute<T>>(state.mean[col + d]);
    } else {
        const T* x = segment.row(0, col);
        int d = 0;
        for (; d + kStep <= width; d += kStep) store(pilot + d, load(x + d));
        if (d < width) store(pilot + d, load_part(x + d, width - d));
    }
}

// Recomputes in double the norms whose squares left the range of float.
template <class T>
__attribute__((noinline)) void recompute_norms(const Segment<T>& segment, double* norm_ss) {
    for (int i = 0; i < segment.count; ++i)
        if (!in_range<T>(norm_ss[i], static_cast<double>(segment.cols)))
            norm_ss[i] = wide_norm_ss(segment.row(i, 0), segment.cols);
}

template <class T>
inline void add_norms(const Segment<T>& segment, double* norm_ss, Norms& norms) {
    bool all_in_range = true;
    for (int i = 0; i < segment.count; ++i)
        all_in_range &= in_range<T>(norm_ss[i], static_cast<double>(segment.cols));
    if (!all_in_range) recompute_norms(segment, norm_ss);
    double largest = 0, sum = 0;
    for (int i = 0; i < segment.count; ++i) largest = norm_ss[i] > largest ? norm_ss[i] : largest;
    for (int i = 0; i < segment.count; ++i) sum += __builtin_sqrt(norm_ss[i]);
    largest = __builtin_sqrt(largest);
    norms.sum += sum;
    norms.max = largest > norms.max ? largest : norms.max;
}

// Whether |segment mean - pilot|^2 is so large a part of the sum of squares that the rounding of
// floats would show in the difference. An outlier among the first rows of a class does that: the pilot
// lies far from all other rows, or they lie far from it, and their many equal deviations round alike.
template <class T>
inline bool cancels(double deviation_ss, double shift_ss) {
    return !std::is_same<T, double>::value && shift_ss > 0.6 * deviation_ss;
}

template <class C>
inline double sum_of_squares(const C* x, int width) {
    VecD total = {};
    for (int d = 0; d < width; d += kLanes<double>) {  // the padding of x is 0
        const VecD value = load_double(x + d);
        total += value * value;
    }
    return sum_lanes(total);
}

// Adds one strip of a segment to the state; returns the increase of the sum of squares.
template <class T>
inline double add_strip(const Segment<T>& segment, ClassState& state, std::int64_t col, int width,
                        double* low, double* norm_ss) {
    alignas(64) Compute<T> pilot[kStrip<T>];
    alignas(64) Compute<T> shift_sum[kStrip<T>];
    for (int d = 0; d < width; d += kLanes<Compute<T>>) store(shift_sum + d, Vec<Compute<T>>{});
    store(pilot + (width - 1) / kLanes<Compute<T>> * kLanes<Compute<T>>, Vec<Compute<T>>{});
    set_pilot(segment, state, col, width, pilot);
    if (!std::is_same<T, double>::value) low = nullptr;  // known to the compiler
    const double rows = segment.count;
    const double share = rows / (rows + static_cast<double>(state.count));
    double* mean = state.mean + col;

    double deviation_ss = strip(segment, col, width, pilot, shift_sum, norm_ss);
    bool exact = in_range<T>(deviation_ss, rows * width);
    Fold folded;
    if (state.count == 0) {
        folded = fold<true>(mean, low, pilot, shift_sum, width, rows, share);
        exact &= !cancels<T>(deviation_ss, rows * folded.shift_ss);
    } else {
        // later segments are too small a part of the class for their rounding to matter
        if (exact && deviation_ss > state.within_ss / 2)
            exact = !cancels<T>(deviation_ss, sum_of_squares(shift_sum, width) / rows);
        if (exact) folded = fold<false>(mean, low, pilot, shift_sum, width, rows, share);
    }
    if (!exact) {
        alignas(64) double wide_sum[kStrip<T>] = {};
        deviation_ss = wide_strip(segment, col, width, pilot, wide_sum);
        folded = state.count > 0 ? fold<false>(mean, low, pilot, wide_sum, width, rows, share)
                                 : fold<true>(mean, low, pilot, wide_sum, width, rows, share);
    }
    return deviation_ss - rows * folded.shift_ss +
           static_cast<double>(state.count) * share * folded.delta_ss;
}

template <class T>
inline void add_segment(const Segment<T>& segment, ClassState& state, double* low, Norms& norms) {
    double norm_ss[kSegmentRows] = {};
    double gained = 0;
    for (std::int64_t col = 0; col < segment.cols; col += kStrip<T>) {
        const auto width = static_cast<int>(least(kStrip<T>, segment.cols - col));
        gained += add_strip(segment, state, col, width, low == nullptr ? low : low + col, norm_ss);
    }
    // Rounding can leave a tiny negative number. NaN must stay NaN.
    state.within_ss += gained < 0 ? 0 : gained;
    state.count += segment.count;
    add_norms(segment, norm_ss, norms);
}

template <class T>
void accumulate(const Run& run, ClassState& state, Norms& norms) {
    Segment<T> segment{static_cast<const T*>(run.matrix.data), run.matrix.stride, run.matrix.cols,
                 run.rows, run.rows_end, 0, lookahead<T>(run.matrix.cols), run.scattered};
    double* low = nullptr;
    if (std::is_same<T, double>::value && run.count > kFirstSegmentRows) {
        static thread_local std::vector<double> kept;  // small classes are many: no allocation each
        kept.assign(static_cast<std::size_t>(run.matrix.cols + kLanes<double>), 0.0);
        low = kept.data();
    }
    for (std::int64_t done = 0; done < run.count; done += segment.count) {
        const int most = state.count == 0 ? kFirstSegmentRows : kSegmentRows;
        segment.rows = run.rows + done;
        segment.count = static_cast<int>(least(run.count - done, most));
        if (state.count == 0 && segment.count == 1) {
            add_single(segment, state, norms);
        } else {
            add_segment(segment, state, low, norms);
        }
    }
}

}  // namespace NCFAST_ISA
}  // namespace ncfast

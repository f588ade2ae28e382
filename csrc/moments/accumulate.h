// Folds the rows of one class into its running count, mean and sum of squared deviations.
//
// Each item is summed relative to a pilot: the mean so far, or the first row for the first item,
// which is kept short. Items are merged in double (Chan, Golub & LeVeque 1983). What cancels in
// an item is then never much larger than what the class keeps, even if its first row is an
// outlier; the tests hold that to 1e-6 with float sums.
#pragma once

#include "moments/item.h"
#include "moments/single.h"

namespace ncfast {
namespace NCFAST_ISA {

constexpr int kFirstItemRows = 8;

struct Fold {
    double shift_ss = 0;  // |item mean - pilot|^2
    double delta_ss = 0;  // |item mean - mean so far|^2
};

// Moves `mean` (width entries) to the mean of both; `share` is the item's part of the count.
template <bool First, class P, class S>
inline Fold fold(double* mean, const P* pilot, const S* shift_sum, int width, double rows,
                 double share) {
    constexpr int kStep = kLanes<double>;
    VecD shift_ss = {}, delta_ss = {};
    const double inverse = 1 / rows;
    const auto step = [&](VecD old, int d) __attribute__((always_inline)) {
        const VecD around = load_double(pilot + d);
        const VecD shift = load_double(shift_sum + d) * inverse;
        shift_ss += shift * shift;
        if (First) return around + shift;
        const VecD delta = shift + (around - old);
        delta_ss += delta * delta;
        return old + delta * share;
    };
    int d = 0;
    for (; d + kStep <= width; d += kStep)
        store(mean + d, step(First ? VecD{} : load_bits<VecD>(mean + d), d));
    if (d < width) {
        // padding lanes of pilot and shift_sum are zero, so they add nothing
        const std::size_t bytes = static_cast<std::size_t>(width - d) * sizeof(double);
        VecD old = {};
        if (!First) std::memcpy(&old, mean + d, bytes);
        const VecD now = step(old, d);
        std::memcpy(mean + d, &now, bytes);
    }
    return {sum_lanes(shift_ss), sum_lanes(delta_ss)};
}

template <class T>
inline void set_pilot(const Item<T>& item, const ClassState& state, std::int64_t col, int width,
                      Compute<T>* pilot) {
    constexpr int kStep = kLanes<Compute<T>>;
    if (state.count > 0) {
        for (int d = 0; d < width; ++d) pilot[d] = static_cast<Compute<T>>(state.mean[col + d]);
    } else {
        const T* x = item.row(0, col);
        int d = 0;
        for (; d + kStep <= width; d += kStep) store(pilot + d, load(x + d));
        if (d < width) store(pilot + d, load_part(x + d, width - d));
    }
}

template <class T>
__attribute__((noinline)) void mend_norms(const Item<T>& item, double* norm_ss) {
    for (int i = 0; i < item.count; ++i)
        if (!in_range<T>(norm_ss[i], static_cast<double>(item.cols)))
            norm_ss[i] = wide_norm_ss(item.row(i, 0), item.cols);
}

template <class T>
inline void add_norms(const Item<T>& item, double* norm_ss, Norms& norms) {
    bool all_in_range = true;
    for (int i = 0; i < item.count; ++i)
        all_in_range &= in_range<T>(norm_ss[i], static_cast<double>(item.cols));
    if (!all_in_range) mend_norms(item, norm_ss);
    double largest = 0, sum = 0;
    for (int i = 0; i < item.count; ++i) largest = norm_ss[i] > largest ? norm_ss[i] : largest;
    for (int i = 0; i < item.count; ++i) sum += __builtin_sqrt(norm_ss[i]);
    largest = __builtin_sqrt(largest);
    norms.sum += sum;
    norms.max = largest > norms.max ? largest : norms.max;
}

// One strip of an item into the state; returns what it adds to the sum of squares.
template <class T>
inline double add_strip(const Item<T>& item, ClassState& state, std::int64_t col, int width,
                        double* norm_ss) {
    alignas(64) Compute<T> pilot[kStrip<T>];
    alignas(64) Compute<T> shift_sum[kStrip<T>];
    for (int d = 0; d < width; d += kLanes<Compute<T>>) store(shift_sum + d, Vec<Compute<T>>{});
    store(pilot + (width - 1) / kLanes<Compute<T>> * kLanes<Compute<T>>, Vec<Compute<T>>{});
    set_pilot(item, state, col, width, pilot);
    const double rows = item.count;
    const double share = rows / (rows + static_cast<double>(state.count));
    double* mean = state.mean + col;

    double deviation_ss = strip(item, col, width, pilot, shift_sum, norm_ss);
    Fold folded;
    if (in_range<T>(deviation_ss, rows * width)) {
        folded = state.count > 0 ? fold<false>(mean, pilot, shift_sum, width, rows, share)
                                 : fold<true>(mean, pilot, shift_sum, width, rows, share);
    } else {
        alignas(64) double wide_sum[kStrip<T>] = {};
        deviation_ss = wide_strip(item, col, width, pilot, wide_sum);
        folded = state.count > 0 ? fold<false>(mean, pilot, wide_sum, width, rows, share)
                                 : fold<true>(mean, pilot, wide_sum, width, rows, share);
    }
    return deviation_ss - rows * folded.shift_ss +
           static_cast<double>(state.count) * share * folded.delta_ss;
}

template <class T>
inline void add_item(const Item<T>& item, ClassState& state, Norms& norms) {
    double norm_ss[kItemRows] = {};
    double gained = 0;
    for (std::int64_t col = 0; col < item.cols; col += kStrip<T>) {
        const auto width = static_cast<int>(least(kStrip<T>, item.cols - col));
        gained += add_strip(item, state, col, width, norm_ss);
    }
    // rounding can leave a tiny negative number; NaN must stay NaN
    state.within_ss += gained < 0 ? 0 : gained;
    state.count += item.count;
    add_norms(item, norm_ss, norms);
}

template <class T>
void accumulate(const Run& run, ClassState& state, Norms& norms) {
    Item<T> item{static_cast<const T*>(run.matrix.data), run.matrix.stride, run.matrix.cols,
                 run.rows, run.rows_end, 0, lookahead<T>(run.matrix.cols), run.scattered};
    for (std::int64_t done = 0; done < run.count; done += item.count) {
        const int most = state.count == 0 ? kFirstItemRows : kItemRows;
        item.rows = run.rows + done;
        item.count = static_cast<int>(least(run.count - done, most));
        if (state.count == 0 && item.count == 1) {
            add_single(item, state, norms);
        } else {
            add_item(item, state, norms);
        }
    }
}

}  // namespace NCFAST_ISA
}  // namespace ncfast

// Margins between class means and the rows of a classifier, a few classes against all classes.
// Products are in C, all other arithmetic is in double.
#pragma once

#include "products/products.h"
#include "products/deviations.h"
#include "products/second_pass.h"

namespace ncfast {
namespace NCFAST_ISA {

// A squared distance below this share of its terms is recomputed from coordinates.
template <class C>
constexpr double kCancelled = sizeof(C) == sizeof(double) ? 1e-5 : 5e-2;
// A margin below this share of its terms is recomputed in double.
template <class C>
constexpr double kSmallMargin = sizeof(C) == sizeof(double) ? 0 : 5e-2;
// The rounding of a sum of products, per term.
template <class C>
constexpr double kRounding = sizeof(C) == sizeof(double) ? 1.2e-16 : 6.5e-8;

// Writes the deviations of rows of class c to `out`, and their products with w_c to `own`.
template <class T, class C>
void pack_residuals(const Matrix& feats, const std::int32_t* rows, std::int64_t count,
                    const double* mean, const double* row_c, std::int64_t stride, double* buffer,
                    C* out, double* own) {
    const T* data = static_cast<const T*>(feats.data);
    for (std::int64_t i = 0; i < count; ++i, out += stride) {
        deviations(data + rows[i] * feats.stride, mean, feats.cols, buffer);
        own[i] = dot(buffer, row_c, feats.cols);
        for (std::int64_t d = 0; d < feats.cols; ++d) out[d] = static_cast<C>(buffer[d]);
    }
}

// Adds <w_c - w_k, deviation>^2 to spread[c - first][k] for each row of the residuals and all k.
template <class C>
void add_spread(const ClassPairs<C>& pairs, std::int64_t first, const Residuals<C>& residuals,
                double* spread) {
    const std::int64_t padded = (pairs.number + kPanel<C> - 1) / kPanel<C> * kPanel<C>;
    Vec<C> sums[kLeft][2];
    VecD parts[2];
    for (std::int64_t k = 0; k < padded; k += kPanel<C>)
        for (std::int64_t i = 0; i < residuals.count; i += kLeft) {
            const C* left[kLeft];
            left_rows(residuals.data, residuals.stride, i, residuals.count, left);
            tile_product<1>(left, pairs.panels + k * pairs.cols, pairs.cols, sums);
            for (int r = 0; r < least(kLeft, residuals.count - i); ++r) {
                double* to = spread + (residuals.classes[i + r] - first) * padded + k;
                for (int half = 0; half < 2; ++half) {
                    const Vec<C> along = static_cast<C>(residuals.own[i + r]) - sums[r][half];
                    const int number = as_doubles(along * along, parts);
                    for (int p = 0; p < number; ++p, to += kLanes<double>)
                        store(to, load(to) + parts[p]);
                }
            }
        }
}

// One class c against all other classes.
struct OneClass {
    std::int64_t c;
    double own, norm, rounding, variance, inverse_count;
    const double* spread;
    VecD projected, trace;  // sums by lane
    VecD radius;            // minimum by lane
};

template <class C>
inline OneClass one_class(const ClassPairs<C>& pairs, std::int64_t c, const double* spread) {
    const double* mean = pairs.centred + c * pairs.cols;
    const double norm = __builtin_sqrt(dot(mean, mean, pairs.cols));
    const double count = static_cast<double>(pairs.counts[c]);
    return {c,
            dot(pairs.rows + c * pairs.cols, mean, pairs.cols) + pairs.bias[c],
            norm,
            kRounding<C> * static_cast<double>(pairs.cols + 16) * (1 + norm),
            pairs.variances[c],
            count > 0 ? 1 / count : 0,
            spread,
            VecD{},
            VecD{},
            VecD{} + DBL_MAX};
}

// |w_c - w_k|^2 from <w_c, w_k>, one k a lane.
template <class C>
inline VecD gaps(const ClassPairs<C>& pairs, std::int64_t c, std::int64_t k, VecD dots) {
    const VecD sum = load(pairs.norm_ss + k) + pairs.norm_ss[c];
    VecD gap = sum - 2.0 * dots;
    const VecD low = gap < kCancelled<C> * sum ? VecD{} + 1.0 : VecD{};
    if (sum_lanes(low) == 0) return gap;
    for (int lane = 0; lane < kLanes<double>; ++lane) {
        if (low[lane] == 0 || k + lane >= pairs.number) continue;
        const double *a = pairs.rows + c * pairs.cols, *b = pairs.rows + (k + lane) * pairs.cols;
        VecD total = {};
        for (std::int64_t d = 0; d < pairs.cols; d += kLanes<double>) {
            const VecD part = load_most(a + d, pairs.cols - d) - load_most(b + d, pairs.cols - d);
            total += part * part;
        }
        gap[lane] = sum_lanes(total);
    }
    return gap;
}

// own - <w_k, mean_c> - bias_k, one k a lane.
template <class C>
inline VecD margins(const ClassPairs<C>& pairs, const OneClass& of, std::int64_t k, VecD scores) {
    VecD margin = of.own - (scores + load(pairs.bias + k));
    if (kSmallMargin<C> == 0) return margin;
    const VecD magnitude = margin < 0 ? -margin : margin;
    const VecD size = kSmallMargin<C> * of.norm * load(pairs.norm + k);
    const VecD low = magnitude < size ? VecD{} + 1.0 : VecD{};
    if (sum_lanes(low) == 0) return margin;
    for (int lane = 0; lane < kLanes<double>; ++lane)
        if (low[lane] != 0 && k + lane < pairs.number)
            margin[lane] = of.own - (dot(pairs.rows + (k + lane) * pairs.cols,
                                         pairs.centred + of.c * pairs.cols, pairs.cols) +
                                     pairs.bias[k + lane]);
    return margin;
}

// Cantelli's bound spread / (spread + margin^2); 1 where the margin is not positive.
inline VecD cantelli(VecD spread, VecD margin) {
    const VecD term = spread / (spread + margin * margin);
    return margin > 0 ? term : VecD{} + 1.0;
}

// Adds the terms of the classes from k on, one a lane.
template <class C>
inline void add_terms(const ClassPairs<C>& pairs, std::int64_t k, VecD scores, VecD dots,
                      OneClass& of) {
    VecD index, reach;
    for (int lane = 0; lane < kLanes<double>; ++lane) index[lane] = static_cast<double>(k + lane);
    const auto other = (index != static_cast<double>(of.c)) &
                       (index < static_cast<double>(pairs.number));
    const VecD margin = margins(pairs, of, k, scores);
    const VecD gap = gaps(pairs, of.c, k, dots);
    if (of.spread != nullptr) {
        const VecD term = cantelli(load(of.spread + k) * of.inverse_count, margin);
        of.projected += other ? term : VecD{};
    }
    const VecD term = cantelli(gap * of.variance, margin);
    of.trace += other ? term : VecD{};
    const VecD safe = margin - of.rounding * (load(pairs.scale + k) + pairs.scale[of.c]);
    for (int lane = 0; lane < kLanes<double>; ++lane)
        reach[lane] = safe[lane] > 0 ? safe[lane] / __builtin_sqrt(gap[lane]) : 0.0;
    of.radius = (other & (reach < of.radius)) ? reach : of.radius;
}

// Writes the results of classes first .. first + count.
template <class C>
void finish_margins(const ClassPairs<C>& pairs, std::int64_t first, std::int64_t count,
                    const double* spread, const MarginSums& out) {
    const std::int64_t padded = (pairs.number + kPanel<C> - 1) / kPanel<C> * kPanel<C>;
    Vec<C> scores[kLeft][2], dots[kLeft][2];
    VecD score[2], dot_parts[2];
    for (std::int64_t i = 0; i < count; i += kLeft) {
        const C *centred[kLeft], *rows[kLeft];
        left_rows(pairs.left_centred + first * pairs.cols, pairs.cols, i, count, centred);
        left_rows(pairs.left_rows + first * pairs.cols, pairs.cols, i, count, rows);
        const int number = static_cast<int>(least(kLeft, count - i));
        OneClass state[kLeft];
        for (int r = 0; r < number; ++r)
            state[r] = one_class(pairs, first + i + r,
                                 spread == nullptr ? nullptr : spread + (i + r) * padded);
        for (std::int64_t k = 0; k < padded; k += kPanel<C>) {
            tile_product<1>(centred, pairs.panels + k * pairs.cols, pairs.cols, scores);
            tile_product<1>(rows, pairs.panels + k * pairs.cols, pairs.cols, dots);
            for (int r = 0; r < number; ++r)
                for (int half = 0; half < 2; ++half) {
                    const int parts = as_doubles(scores[r][half], score);
                    as_doubles(dots[r][half], dot_parts);
                    for (int p = 0; p < parts; ++p)
                        add_terms(pairs, k + half * kLanes<C> + p * kLanes<double>, score[p],
                                  dot_parts[p], state[r]);
                }
        }
        for (int r = 0; r < number; ++r) {
            const OneClass& of = state[r];
            out.projected[of.c] = sum_lanes(of.projected);
            out.trace[of.c] = sum_lanes(of.trace);
            double radius = of.radius[0];
            for (int lane = 1; lane < kLanes<double>; ++lane)
                radius = of.radius[lane] < radius ? of.radius[lane] : radius;
            out.radius[of.c] = radius;
        }
    }
}

template <class C>
constexpr MarginKernels<C> margin_kernels() {
    return {kPanel<C>,
            {&pack_residuals<float, C>, &pack_residuals<double, C>, &pack_residuals<Bf16, C>,
             &pack_residuals<F16, C>},
            &add_spread<C>,
            &finish_margins<C>};
}

}  // namespace NCFAST_ISA
}  // namespace ncfast

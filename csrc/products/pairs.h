// Statistics over all pairs of class means: a block of rows against the rows after it, in double.
#pragma once

#include "products/products.h"
#include "products/second_pass.h"

namespace ncfast {
namespace NCFAST_ISA {

typedef std::int64_t VecL __attribute__((vector_size(NCFAST_VECTOR_BYTES)));

inline VecD square_root(VecD x) {
#if NCFAST_VECTOR_BYTES == 64
    return (VecD)_mm512_maskz_sqrt_pd(0xff, (__m512d)x);
#elif NCFAST_VECTOR_BYTES == 32
    return (VecD)_mm256_sqrt_pd((__m256d)x);
#else
    VecD root;
    for (int lane = 0; lane < kLanes<double>; ++lane) root[lane] = __builtin_sqrt(x[lane]);
    return root;
#endif
}

// The natural logarithm of normal numbers and zero, to two units in the last place. With x = m 2^e
// and m near 1, log m = 2 atanh((m - 1) / (m + 1)).
inline VecD logarithm(VecD x) {
    const VecL bits = (VecL)x;
    VecL exponent = (bits >> 52) - 1023;
    VecD m = (VecD)((bits & 0xfffffffffffffLL) | 0x3ff0000000000000LL);
    const VecL big = (VecL)(m > 1.4142135623730951);
    exponent -= big;  // a true comparison is -1
    m = big ? m * 0.5 : m;
    const VecD s = (m - 1.0) / (m + 1.0), z = s * s;
    VecD series = VecD{} + 1.0 / 21;
    for (int odd = 19; odd > 0; odd -= 2) series = series * z + 1.0 / odd;
    const VecD result = __builtin_convertvector(exponent, VecD) * 0.6931471805599453 +
                        2.0 * s * series;
    return x == 0 ? VecD{} - __builtin_inf() : result;
}

// Sums over pairs, by lane.
struct PairState {
    bool started = false;
    double count = 0;
    double pilot[kPairMeans] = {};  // the first pair's values; sums are relative to them
    VecD sum[kPairMeans] = {};
    VecD squares[kPairMeans] = {};
    VecD largest[kPairMaxima] = {};
};

// 1 - cos of row i with the rows from j on; from differences where the product has cancelled.
inline VecD one_minus_cosine(const ClassMeans& of, std::int64_t i, std::int64_t j, VecD dots) {
    VecD h = 1.0 - dots;
    const VecD low = h < kClose ? VecD{} + 1.0 : VecD{};
    if (sum_lanes(low) == 0) return h;
    for (int lane = 0; lane < kLanes<double>; ++lane) {
        if (low[lane] == 0 || j + lane >= of.number) continue;
        const double *a = of.unit + i * of.cols, *b = of.unit + (j + lane) * of.cols;
        VecD total = {};
        for (std::int64_t d = 0; d < of.cols; d += kLanes<double>) {
            const VecD part = load_most(a + d, of.cols - d) - load_most(b + d, of.cols - d);
            total += part * part;
        }
        h[lane] = sum_lanes(total) / 2;
    }
    return h;
}

// Adds the pairs of row i with the rows from j on, one row a lane.
inline void add_pairs(const ClassMeans& of, std::int64_t i, std::int64_t j, VecD dots,
                      PairState& state, double& row_nearest, double* nearest) {
    const VecD index = lanes_from(j);
    const auto valid = (index > static_cast<double>(i)) & (index < static_cast<double>(of.number));
    const VecD one = valid ? VecD{} + 1.0 : VecD{};
    const double number = sum_lanes(one);
    if (number == 0) return;
    const VecD h = valid ? one_minus_cosine(of, i, j, dots) : VecD{} + 1.0;
    const VecD length = load(of.length + j), apart = of.length[i] - length;
    VecD gap = apart * apart + 2.0 * of.length[i] * length * h;
    const VecD distance = square_root(2.0 * h);
    const VecD values[kPairMeans] = {(of.variance[i] + load(of.variance + j)) / (2.0 * gap),
                                     1.0 - of.simplex - h, distance, -0.5 * logarithm(2.0 * h),
                                     1.0 / distance};
    const auto magnitude = [](VecD x) { return x < 0 ? -x : x; };
    for (int q = 0; q < kPairMeans; ++q) {
        const VecD value = q == kAngle ? magnitude(values[q]) : values[q];
        if (!state.started)
            for (int lane = kLanes<double> - 1; lane >= 0; --lane)
                if (one[lane] != 0) state.pilot[q] = __builtin_isfinite(value[lane]) ? value[lane] : 0;
        const VecD shifted = valid ? value - state.pilot[q] : VecD{};
        state.sum[q] += shifted;
        state.squares[q] += shifted * shifted;
    }
    state.started = true;
    state.count += number;
    const VecD maxima[kPairMaxima] = {values[kCdnv], magnitude(1.0 - h)};
    for (int q = 0; q < kPairMaxima; ++q)
        state.largest[q] = (valid & (maxima[q] > state.largest[q])) ? maxima[q] : state.largest[q];
    gap = valid ? gap : VecD{} + DBL_MAX;
    const VecD before = load(nearest + j);
    store(nearest + j, gap < before ? gap : before);
    for (int lane = 0; lane < kLanes<double>; ++lane)
        row_nearest = gap[lane] < row_nearest ? gap[lane] : row_nearest;
}

// Sums over the pairs (i, j) with i in first .. first + count and j > i. Lowers `nearest` (padded
// K), which no other thread may use.
void pair_block(const ClassMeans& of, std::int64_t first, std::int64_t count, PairSums& sums,
                double* nearest) {
    constexpr int kWidth = kPanel<double>;
    PairState state;
    VecD dots[kLeft][2];
    for (std::int64_t i = first; i < first + count; i += kLeft) {
        const double* left[kLeft];
        left_rows(of.unit, of.cols, i, first + count, left);
        double row_nearest[kLeft];
        for (double& each : row_nearest) each = DBL_MAX;
        const int rows = static_cast<int>(least(kLeft, first + count - i));
        for (std::int64_t j = i / kWidth * kWidth; j < of.number; j += kWidth) {
            tile_product<1>(left, of.panels + j * of.cols, of.cols, dots);
            for (int r = 0; r < rows; ++r)
                for (int half = 0; half < 2; ++half)
                    add_pairs(of, i + r, j + half * kLanes<double>, dots[r][half], state,
                              row_nearest[r], nearest);
        }
        for (int r = 0; r < rows; ++r)
            nearest[i + r] = row_nearest[r] < nearest[i + r] ? row_nearest[r] : nearest[i + r];
    }
    sums.count = state.count;
    for (int q = 0; q < kPairMeans; ++q) {
        const double shift = state.count > 0 ? sum_lanes(state.sum[q]) / state.count : 0;
        sums.mean[q] = state.pilot[q] + shift;
        sums.squares[q] = sum_lanes(state.squares[q]) - state.count * shift * shift;
    }
    for (int q = 0; q < kPairMaxima; ++q) {
        sums.largest[q] = state.largest[q][0];
        for (int lane = 1; lane < kLanes<double>; ++lane)
            if (state.largest[q][lane] > sums.largest[q]) sums.largest[q] = state.largest[q][lane];
    }
}

}  // namespace NCFAST_ISA
}  // namespace ncfast

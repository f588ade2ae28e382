// Reads the class moments of one state.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/memory.h"
#include "summary/spectrum.h"
#include "summary/summary.h"

namespace ncfast {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

inline double square(double x) { return x * x; }

// Mean and population variance over the present classes.
struct Spread {
    double mean, variance;
};

// Statistics of a matrix of products A = L R^T of the rows of present classes: the trace, the
// Frobenius norm, and the distance norm_F(A / norm_F(A) - E) from the Gram matrix E of a simplex
// ETF.
struct Gram {
    double trace, norm, simplex_distance;
};

// The class moments of one state: weights, sums over classes, and pointers to the arrays.
class ClassRow {
public:
    explicit ClassRow(const States& states)
        : k(states.classes), d(states.cols), weight(states.classes),
          centred(states.classes * states.cols), states_(states), mean_(states.cols) {}

    void read(std::int64_t i) {
        const double* counts = states_.counts[i];
        means = states_.means[i];
        within_ss = states_.within_ss[i];
        total = number = within = 0;
        for (std::int64_t c = 0; c < k; ++c) {
            std::int64_t count;
            std::memcpy(&count, counts + c, sizeof count);
            weight[c] = states_.integer_counts ? static_cast<double>(count) : counts[c];
            total += weight[c];
            number += present(c);
            within += within_ss[c];
        }
        norm_sum = *states_.norm_sum[i];
        norm_max = *states_.norm_max[i];
    }

    bool present(std::int64_t c) const { return weight[c] > 0; }

    // P / (P - 1) for P present classes; NaN if P < 2.
    double bessel() const { return number > 1 ? number / (number - 1) : kNan; }

    // NaN if features or labels are invalid or there are none; else 0.
    double nan_if_invalid() const { return 0 * (norm_sum + within) / total; }

    // The norm at or below which a centred mean is rounding error and counts as 0. `negligible` in
    // ncfast/ops/spectra.py is the same.
    double negligible() const { return rank_cutoff(std::max(k, d)) * (norm_sum / total); }

    // Makes the centred mean of class c zero.
    void drop(std::int64_t c) { std::fill_n(centred.data() + c * d, d, 0.0); }

    // Fills `centred` with the means minus their mean; the rows of absent classes are 0.
    void centre() {
        std::fill(mean_.begin(), mean_.end(), 0.0);
        for (std::int64_t c = 0; c < k; ++c)
            for (std::int64_t i = 0; i < d; ++i) mean_[i] += means[c * d + i];
        for (double& value : mean_) value /= number;
        for (std::int64_t c = 0; c < k; ++c) {
            double* row = centred.data() + c * d;
            if (!present(c)) std::fill(row, row + d, 0.0);
            else
                for (std::int64_t i = 0; i < d; ++i) row[i] = means[c * d + i] - mean_[i];
        }
    }

    const std::int64_t k, d;
    std::vector<double> weight;
    LineVector<double> centred;
    const double *means = nullptr, *within_ss = nullptr;
    double total = 0, number = 0, within = 0, norm_sum = 0, norm_max = 0;

private:
    const States states_;
    std::vector<double> mean_;
};

// Mean and variance of one value a class over the present classes.
inline Spread spread(const ClassRow& row, const std::vector<double>& values) {
    double mean = 0, squares = 0;
    for (std::int64_t c = 0; c < row.k; ++c) mean += row.present(c) ? values[c] : 0.0;
    mean /= row.number;
    for (std::int64_t c = 0; c < row.k; ++c)
        squares += row.present(c) ? square(values[c] - mean) : 0.0;
    return {mean, squares / row.number};
}

// The norm of the products. Their squares leave the range of double where the features exceed 1e77
// or lie below 1e-77; the products are then scaled by a power of two.
inline double frobenius(const std::vector<double>& product) {
    double squares = 0, largest = 0;
    for (const double value : product) squares += square(value);
    if (squares > 1e-280 && squares < 1e280) return std::sqrt(squares);
    for (const double value : product) largest = std::max(largest, std::abs(value));
    if (largest == 0 || !std::isfinite(largest)) return std::sqrt(squares);
    int exponent = 0;
    std::frexp(largest, &exponent);
    squares = 0;
    for (const double value : product) squares += square(std::ldexp(value, -exponent));
    return std::ldexp(std::sqrt(squares), exponent);
}

// The statistics of the products (K, K).
inline Gram gram(const ClassRow& row, const std::vector<double>& product) {
    double trace = 0, sum = 0;
    for (std::int64_t c = 0; c < row.k; ++c) trace += product[c * row.k + c];
    const double norm = frobenius(product), scale = 1 / norm, share = 1 / row.number;
    const double root = 1 / std::sqrt(row.number - 1);
    const double off = -share * root, diagonal = (1 - share) * root;  // entries of E
    for (std::int64_t i = 0; i < row.k; ++i) {
        const double* products = product.data() + i * row.k;
        for (std::int64_t j = 0; j < row.k; ++j) {
            const bool both = row.present(i) && row.present(j);
            sum += square(products[j] * scale - (both ? i == j ? diagonal : off : 0.0));
        }
    }
    return {trace, norm, std::sqrt(sum)};
}

}  // namespace ncfast

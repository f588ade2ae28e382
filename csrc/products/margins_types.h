// What the margins of all pairs of classes are made from, and what comes of them.
#pragma once

#include "core/types.h"

namespace ncfast {

// An affine rule, scores <w_k, x> + bias_k, and the class means it is looked at from. Products are
// taken in C; what has K entries is padded to whole panels.
template <class C>
struct Pairs {
    std::int64_t number;
    std::int64_t cols;
    const double* rows;     // (K, D) w_k
    const C* left_rows;     // the same
    const C* panels;        // the same, see products.h
    const double* centred;  // (K, D) means less a centre
    const C* left_centred;  // the same
    const double* bias;       // bias_k + <w_k, centre>
    const double* norm;       // |w_k|
    const double* norm_ss;    // |w_k|^2
    const double* scale;      // |w_k| and |bias_k|: how large the terms of a score are
    const double* variances;  // (K,) of the classes
    const std::int64_t* counts;
};

// Deviations of rows from their class means.
template <class C>
struct Residuals {
    const C* data;
    std::int64_t stride;
    std::int64_t count;
    const std::int64_t* classes;  // of each
    const double* own;            // of each, <w_c, deviation>
};

// Over all k other than c, with m = <w_c - w_k, mean_c> + bias_c - bias_k, one number a class:
struct MarginSums {
    double* projected;  // sum of v / (v + m^2), v the variance of class c along w_c - w_k
    double* trace;      // the same with v = variance_c |w_c - w_k|^2
    double* radius;     // a distance from mean_c within which the rule surely chooses c
};

template <class C>
struct MarginKernels {
    int panel;
    // out, own: deviations of `count` rows of class c, and their products with w_c
    void (*pack[4])(const Matrix& feats, const std::int32_t* rows, std::int64_t count,
                    const double* mean, const double* row_c, std::int64_t stride, double* buffer,
                    C* out, double* own);
    // spread[c - first][k] += <w_c - w_k, deviation>^2
    void (*add_spread)(const Pairs<C>& pairs, std::int64_t first, const Residuals<C>& residuals,
                       double* spread);
    // for classes first .. first + count; spread is (count, padded K), or null
    void (*finish)(const Pairs<C>& pairs, std::int64_t first, std::int64_t count,
                   const double* spread, const MarginSums& out);
};

}  // namespace ncfast

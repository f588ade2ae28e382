// The second passes: operations that read the features again once the class means are known, their
// types, and the kernels of an instruction set behind them.
#pragma once

#include "core/types.h"

namespace ncfast {

// Those of which the mean is taken, in order: cdnv, abs(cos - simplex), distance, log, Riesz.
constexpr int kPairMeans = 5;
constexpr int kCdnv = 0, kAngle = 1;
constexpr int kPairMaxima = 2;  // cdnv, abs(cos)

struct ClassMeans {
    std::int64_t number;
    std::int64_t cols;
    const double* unit;      // (K, D) directions
    const double* panels;    // the same, see products.h
    const double* length;    // padded to whole panels, as is
    const double* variance;
    double simplex;  // cosine of a simplex
};

struct PairSums {
    double count;
    double mean[kPairMeans];
    double squares[kPairMeans];  // of deviations from the mean, summed
    double largest[kPairMaxima];
};

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

// total (D, D) = sum over all rows of the outer product of their deviation from the class mean.
// Labels are in range. The same bits for any number of threads.
void scatter(const Matrix& feats, const std::int64_t* labels, const double* means, double* total,
             int threads);

// out[i] = |x_i - mean of its class|
void own_distances(const Matrix& feats, const std::int64_t* labels, const double* means,
                   double* out, int threads);

struct MarginInput {
    std::int64_t number;
    std::int64_t cols;
    const double* means;    // (K, D)
    const double* centred;  // (K, D) means less a centre
    const double* variances;
    const std::int64_t* counts;
    const double* rows;  // (K, D) of an affine rule
    const double* bias;  // (K,) its bias, the centre's product with the rows added
};

// Everything about pairs of classes in one sweep, see MarginSums; without features (no rows) the
// projected sums are zero. Up to 512 classes products are in double, beyond in float around the
// centre. The same bits for any number of threads.
void margins(const Matrix& feats, const Labels& labels, const MarginInput& in,
             const MarginSums& out, int threads);

// Statistics over all pairs of classes with directions unit (K, D) and norms length, and the squared
// distance of each mean from the nearest other one. The same bits for any number of threads.
PairSums class_pairs(const double* unit, const double* length, const double* variance,
                     std::int64_t number, std::int64_t cols, double simplex, double* nearest,
                     int threads);

// sums[v] = sum over all rows of <x - mean of its class, vectors[v]>^2; vectors is (V, D).
void projected_ss(const Matrix& feats, const Labels& labels, std::int64_t num_classes,
                  const double* means, const double* vectors, std::int64_t num_vectors,
                  double* sums, int threads);

using PackDeviations = void (*)(const Matrix& feats, const std::int64_t* labels,
                                const double* means, std::int64_t first, std::int64_t count,
                                std::int64_t depth, double* row, double* panels);
using Distances = void (*)(const Matrix& feats, const std::int64_t* labels, const double* means,
                           std::int64_t first, std::int64_t count, double* row, double* out);

struct Products {
    int panel;  // rows side by side in a packed operand
    PackDeviations pack_deviations[4];  // indexed by Dtype
    Distances distances[4];
    void (*add_gram)(const double* panels, std::int64_t depth, std::int64_t right, double* total,
                     std::int64_t stride);
    // pairs of rows first .. first + count with those after them; lowers nearest (padded)
    void (*pair_block)(const ClassMeans& of, std::int64_t first, std::int64_t count, PairSums& sums,
                       double* nearest);
    MarginKernels<float> margins;
    MarginKernels<double> exact_margins;
};

}  // namespace ncfast

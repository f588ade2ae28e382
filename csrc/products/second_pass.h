// The second passes: operations that read the features or the class means again once the means are
// known, and the kernels of an instruction set behind them.
//
// The bits of every result are independent of the number of threads.
#pragma once

#include <memory>

#include "core/types.h"

namespace ncfast {

// Writes total (D, D), the sum over all rows of the outer product of their deviation from the class
// mean with itself. Labels are in range.
void scatter(const Matrix& feats, const std::int64_t* labels, const double* means, double* total,
             int threads);

// Writes out[i] = |x_i - mean of its class|. Labels are in range.
void own_distances(const Matrix& feats, const std::int64_t* labels, const double* means,
                   double* out, int threads);

// Writes sums[v], the sum over all rows of <x - mean of its class, vectors[v]>^2; vectors is (V,
// D). A label out of range makes all sums NaN.
void projected_ss(const Matrix& feats, const Labels& labels, std::int64_t num_classes,
                  const double* means, const double* vectors, std::int64_t num_vectors,
                  double* sums, int threads);

// ---- products of packed rows ----

constexpr std::int64_t kGramRows = 512;  // at most, so that a panel stays in L2

// Rows packed for the products of all pairs of columns: panels of columns, row after row in each.
struct PackedRows {
    std::int64_t depth;  // rows
    std::int64_t cols;
    double* data;  // column c of row i is at (c / width * depth + i) * width + c % width

    PackedRows(std::int64_t rows, std::int64_t cols);

    // Adds the sum of the outer products of the rows to the upper triangle of total (cols, cols).
    // Columns past the last one hold zeros.
    void add_products(double* total, int threads) const;

private:
    std::unique_ptr<double[]> memory_;
};

// Copies the upper triangle of total (cols, cols) to the lower one.
void mirror(double* total, std::int64_t cols, int threads);

// ---- pairs of class means ----

// 1 - cos below this has lost more than 1e-10 of its value to cancellation.
constexpr double kClose = 1e-5;

// The quantities whose mean and variance are computed: cdnv, abs(cos - simplex), distance, log,
// Riesz.
constexpr int kPairMeans = 5;
constexpr int kCdnv = 0, kAngle = 1;
// The quantities whose maximum is computed: cdnv, abs(cos).
constexpr int kPairMaxima = 2;

struct PairSums {
    double count;  // of pairs
    double mean[kPairMeans];
    double squares[kPairMeans];  // sums of squared deviations from the mean
    double largest[kPairMaxima];
};

// Statistics over all pairs of classes with directions unit (K, D) and norms length (K). Writes
// nearest (K), the squared distance of each mean from the nearest other mean.
PairSums class_pairs(const double* unit, const double* length, const double* variance,
                     std::int64_t number, std::int64_t cols, double simplex, double* nearest,
                     int threads);

// The operands of the kernel. Arrays of K entries are padded to whole panels (see products.h).
struct ClassMeans {
    std::int64_t number;
    std::int64_t cols;
    const double* unit;      // (K, D) directions
    const double* panels;    // the directions as panels
    const double* length;    // (K) norms
    const double* variance;  // (K)
    double simplex;          // cosine between the directions of a simplex
};

// ---- margins between classes ----

// An affine rule with the scores <w_k, x> + b_k, and the moments of the classes.
struct MarginInput {
    std::int64_t number;
    std::int64_t cols;
    const double* means;      // (K, D)
    const double* centred;    // (K, D) means minus a centre
    const double* variances;  // (K)
    const std::int64_t* counts;
    const double* rows;  // (K, D) w_k
    const double* bias;  // (K) b_k + <w_k, centre>
};

// Results for each class c, over all k other than c, with the margin
// m = <w_c - w_k, mean_c> + b_c - b_k.
struct MarginSums {
    double* projected;  // sum of v / (v + m^2), where v is the variance of class c along w_c - w_k
    double* trace;      // the same sum with v = variance_c |w_c - w_k|^2
    double* radius;     // within this distance of mean_c the rule surely chooses c
};

// Computes the margins of all pairs of classes. Without features (no rows) the projected sums are
// 0. Products are in double for at most 512 classes, else in float relative to the centre.
void margins(const Matrix& feats, const Labels& labels, const MarginInput& in,
             const MarginSums& out, int threads);

// Class means mu_c and the rows w_c of a classifier.
struct ClassesAndRows {
    std::int64_t number;
    std::int64_t cols;
    const double* means;  // (K, D)
    const double* rows;   // (K, D)
};

// Adds <w_c - w_k, x - mu_c>^2 for each row x of class c and all k to total[c][k] (K, K), in the order
// of the rows and on one thread. Rows with a label out of range count nowhere.
void add_projected_squares(const Matrix& feats, const Labels& labels, const ClassesAndRows& of,
                           double* total);

// The operands of the kernels, whose products are in C. Arrays of K entries are padded to whole
// panels.
template <class C>
struct ClassPairs {
    std::int64_t number;
    std::int64_t cols;
    const double* rows;       // (K, D) w_k
    const C* left_rows;       // w_k in C
    const C* panels;          // w_k in C as panels
    const double* centred;    // (K, D) means minus a centre
    const C* left_centred;    // the same in C
    const double* bias;       // b_k + <w_k, centre>
    const double* norm;       // |w_k|
    const double* norm_ss;    // |w_k|^2
    const double* scale;      // |w_k| + |bias_k|, the size of the terms of a score
    const double* variances;  // (K)
    const std::int64_t* counts;
};

// Deviations of rows from their class means.
template <class C>
struct Residuals {
    const C* data;
    std::int64_t stride;
    std::int64_t count;
    const std::int64_t* classes;  // class c of each row
    const double* own;            // <w_c, deviation> of each row
};

template <class C>
struct MarginKernels {
    int panel;  // rows in a panel
    // Writes the deviations of `count` rows of class c to `out` and their products with w_c to
    // `own`.
    void (*pack[4])(const Matrix& feats, const std::int32_t* rows, std::int64_t count,
                    const double* mean, const double* row_c, std::int64_t stride, double* buffer,
                    C* out, double* own);
    // Adds <w_c - w_k, deviation>^2 to spread[c - first][k].
    void (*add_spread)(const ClassPairs<C>& pairs, std::int64_t first,
                       const Residuals<C>& residuals, double* spread);
    // Writes the results of classes first .. first + count. `spread` is (count, padded K), or null.
    void (*finish)(const ClassPairs<C>& pairs, std::int64_t first, std::int64_t count,
                   const double* spread, const MarginSums& out);
};

// ---- decisions ----

// The class moments, and a classifier.
struct DecisionInput {
    std::int64_t number;
    std::int64_t cols;
    const double* means;  // (K, D)
    const std::int64_t* counts;
    const double* within_ss;  // (K)
    double norm_sum;
    const double* weight;  // (K, D), or null
    const double* bias;    // (K), or null
};

// Numbers of rows of each class (K), which start at 0; and their shares of the rows in the moments.
struct Decided {
    double* agreements;  // rows that the classifier gives to the class of the nearest mean
    double* hits;        // rows whose nearest mean is that of their class
    double* shares;      // (2) of both; NaN where the moments are
};

// Compares the nearest mean of each row with its class and with the classifier's choice. Ties go to
// the smaller class. Rows with a label out of range count nowhere.
void compare_decisions(const Matrix& feats, const Labels& labels, const DecisionInput& in,
                       const Decided& out, int threads);

// The operands of the kernel: a rule argmax_k <x - centre, row_k> + offset_k.
struct RuleView {
    std::int64_t number;   // of rows, at least 1
    const double* centre;  // (D)
    const double* panels;  // the rows as panels, padded with zeros
    const double* offset;  // minus infinity where there is no row
};
constexpr int kMostLeft = 8;            // rows of features at once
constexpr std::int64_t kPadding = 8;    // rows a power of two apart share cache sets

// ---- the kernels of an instruction set ----

using PackDeviations = void (*)(const Matrix& feats, const std::int64_t* labels,
                                const double* means, std::int64_t first, std::int64_t count,
                                std::int64_t depth, double* row, double* panels);
using Distances = void (*)(const Matrix& feats, const std::int64_t* labels, const double* means,
                           std::int64_t first, std::int64_t count, double* row, double* out);

struct Products {
    int panel;                          // rows in a panel
    PackDeviations pack_deviations[4];  // indexed by Dtype
    Distances distances[4];
    // Writes the row of the rule chosen at each of `count` rows. `buffer` has kMostLeft rows of
    // D + kPadding doubles.
    void (*choose[4])(const Matrix& feats, std::int64_t first, std::int64_t count,
                      const RuleView& rule, double* buffer, std::int32_t* chosen);
    // Writes the products of the deviations of `count` rows with the rows of the rule, whose centre
    // and offset are not read.
    void (*score[4])(const Matrix& feats, const std::int64_t* labels, const double* means,
                     std::int64_t first, std::int64_t count, const RuleView& rule, double* buffer,
                     double* scores);
    void (*add_gram)(const double* panels, std::int64_t depth, std::int64_t right, double* total,
                     std::int64_t cols);
    // Pairs rows first .. first + count with the rows after them; lowers nearest (padded K).
    void (*pair_block)(const ClassMeans& of, std::int64_t first, std::int64_t count, PairSums& sums,
                       double* nearest);
    MarginKernels<float> margins;
    MarginKernels<double> exact_margins;
};

}  // namespace ncfast

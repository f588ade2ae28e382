// The margins of all pairs of classes, cut into tasks of a few classes against all.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/isa.h"
#include "core/pool.h"
#include "moments/rows.h"
#include "products/second_pass.h"

namespace ncfast {
namespace {

constexpr std::int64_t kResidualBytes = 1 << 19;  // of one block of rows, which stays in L2
constexpr std::int64_t kMostClasses = 32;         // of one task
constexpr std::int64_t kTableBytes = 1 << 23;     // of the spreads of one task
constexpr std::int64_t kFew = 512;                // with at most so many classes double costs little

// Left operands in C: a copy, or the given values if they are of that type.
template <class C>
struct Left {
    std::vector<C> copy;
    const C* data;

    Left(const double* values, std::int64_t size) : copy(values, values + size), data(copy.data()) {}
};
template <>
struct Left<double> {
    const double* data;

    Left(const double* values, std::int64_t) : data(values) {}
};

// The rows of the rule as panels, with their biases and norms, padded.
template <class C>
struct Packed {
    std::int64_t padded;
    std::vector<C> panels;
    std::vector<double> bias, norm, norm_ss, scale;

    Packed(const MarginInput& in, int panel)
        : padded((in.number + panel - 1) / panel * panel),
          panels(static_cast<std::size_t>(padded * in.cols)),
          bias(static_cast<std::size_t>(padded)), norm(bias), norm_ss(bias), scale(bias) {
        for (std::int64_t k = 0; k < in.number; ++k) {
            const double* row = in.rows + k * in.cols;
            C* to = panels.data() + k / panel * panel * in.cols + k % panel;
            double total = 0;
            for (std::int64_t d = 0; d < in.cols; ++d) {
                to[d * panel] = static_cast<C>(row[d]);
                total += row[d] * row[d];
            }
            bias[k] = in.bias[k];
            norm_ss[k] = total;
            norm[k] = std::sqrt(total);
            scale[k] = norm[k] + std::abs(bias[k]);
        }
    }
};

template <class C>
void run(const MarginKernels<C>& use, const Matrix& feats, const Plan& plan, const MarginInput& in,
         const MarginSums& out, int threads) {
    const std::int64_t number = in.number, cols = in.cols;
    const Packed<C> packed(in, use.panel);
    const Left<C> left_rows(in.rows, number * cols), left_centred(in.centred, number * cols);
    const ClassPairs<C> pairs{number, cols, in.rows, left_rows.data, packed.panels.data(), in.centred,
                         left_centred.data, packed.bias.data(), packed.norm.data(),
                         packed.norm_ss.data(), packed.scale.data(), in.variances, in.counts};
    const std::int64_t group = std::clamp<std::int64_t>(
        std::min(kTableBytes / (8 * packed.padded), number / (4 * threads)), 1, kMostClasses);
    const std::int64_t stride = cols + 8;  // rows a power of two apart share cache sets
    const auto most = static_cast<std::int64_t>(kResidualBytes / sizeof(C)) / stride;
    const auto block = static_cast<std::size_t>(std::max<std::int64_t>(most, 8));
    parallel_for((number + group - 1) / group, threads, [&](std::int64_t task) {
        const std::int64_t first = task * group, count = std::min(group, number - first);
        if (feats.rows == 0) return use.finish(pairs, first, count, nullptr, out);
        std::vector<double> buffer(static_cast<std::size_t>(cols)), own(block);
        std::vector<C> residuals(block * static_cast<std::size_t>(stride));
        std::vector<std::int64_t> classes(block);
        std::vector<double> spread(static_cast<std::size_t>(count * packed.padded));
        const std::int64_t last = plan.offsets[first + count];
        for (std::int64_t i = plan.offsets[first], end; i < last; i = end) {
            end = std::min(i + static_cast<std::int64_t>(block), last);
            for_each_run(plan, i, end, [&](std::int64_t c, std::int64_t a, std::int64_t b) {
                std::fill(classes.begin() + (a - i), classes.begin() + (b - i), c);
                use.pack[static_cast<int>(feats.dtype)](
                    feats, plan.rows.get() + a, b - a, in.means + c * cols, in.rows + c * cols,
                    stride, buffer.data(), residuals.data() + (a - i) * stride,
                    own.data() + (a - i));
            });
            use.add_spread(pairs, first,
                           {residuals.data(), stride, end - i, classes.data(), own.data()},
                           spread.data());
        }
        use.finish(pairs, first, count, spread.data(), out);
    });
}

constexpr std::int64_t kScoreRows = 64;  // at once

}  // namespace

void add_projected_squares(const Matrix& feats, const Labels& labels, const ClassesAndRows& of,
                           double* total) {
    const Products& use = kernels().products;
    const std::int64_t number = of.number, cols = of.cols;
    const std::vector<double> zeros(static_cast<std::size_t>(number));
    const Packed<double> packed({number, cols, nullptr, nullptr, nullptr, nullptr, of.rows,
                                 zeros.data()}, use.panel);
    const auto score = use.score[static_cast<int>(feats.dtype)];
    std::vector<double> buffer(static_cast<std::size_t>(kMostLeft * (cols + kPadding)));
    std::vector<double> scores(static_cast<std::size_t>(kScoreRows * packed.padded));
    // a copy: another thread may write to the labels meanwhile
    std::vector<std::int64_t> own(static_cast<std::size_t>(feats.rows));
    std::vector<char> counts(own.size());
    visit(labels, [&](auto* data) {
        for (std::int64_t i = 0; i < feats.rows; ++i) {
            const auto label = static_cast<std::int64_t>(
                __atomic_load_n(data + i * labels.stride, __ATOMIC_RELAXED));
            counts[i] = label >= 0 && label < number;
            own[i] = counts[i] ? label : 0;
        }
    });
    for (std::int64_t first = 0; first < feats.rows; first += kScoreRows) {
        const std::int64_t count = std::min(kScoreRows, feats.rows - first);
        score(feats, own.data(), of.means, first, count, {number, nullptr, packed.panels.data(), nullptr},
              buffer.data(), scores.data());
        for (std::int64_t i = 0; i < count; ++i) {
            if (!counts[first + i]) continue;
            const double* row = scores.data() + i * packed.padded;
            const std::int64_t c = own[first + i];
            for (std::int64_t k = 0; k < number; ++k)
                total[c * number + k] += (row[c] - row[k]) * (row[c] - row[k]);
        }
    }
}

void margins(const Matrix& feats, const Labels& labels, const MarginInput& in,
             const MarginSums& out, int threads) {
    Plan plan;
    if (feats.rows > 0) sort_rows(labels, 0, feats.rows, in.number, threads, plan);
    const Products& use = kernels().products;
    if (in.number > kFew) {
        run(use.margins, feats, plan, in, out, threads);
    } else {
        run(use.exact_margins, feats, plan, in, out, threads);
    }
}

}  // namespace ncfast

// The decisions of the nearest class mean and of a classifier, compared row by row.
#include <algorithm>
#include <limits>
#include <mutex>
#include <numeric>
#include <vector>

#include "core/isa.h"
#include "core/memory.h"
#include "core/pool.h"
#include "products/second_pass.h"

namespace ncfast {
namespace {

constexpr std::int64_t kTaskRows = 256;
constexpr std::int64_t kOneThread = 1 << 20;  // products: waking a thread takes as long

double squared_distance(const double* a, const double* b, std::int64_t cols) {
    double sums[8] = {};  // independent, so that the compiler may use vectors
    std::int64_t d = 0;
    for (; d + 8 <= cols; d += 8)
        for (int lane = 0; lane < 8; ++lane)
            sums[lane] += (a[d + lane] - b[d + lane]) * (a[d + lane] - b[d + lane]);
    for (; d < cols; ++d) sums[0] += (a[d] - b[d]) * (a[d] - b[d]);
    return std::accumulate(sums, sums + 8, 0.0);
}

// A rule over some of the classes: argmax <x - centre, row> + offset.
class PackedRule {
public:
    PackedRule(std::vector<std::int32_t> classes, std::int64_t cols)
        : classes_(std::move(classes)), cols_(cols), panel_(kernels().products.panel),
          centre_(static_cast<std::size_t>(cols)) {
        const std::int64_t padded = (number() + panel_ - 1) / panel_ * panel_;
        panels_.resize(static_cast<std::size_t>(padded * cols));
        offset_.assign(static_cast<std::size_t>(padded), -std::numeric_limits<double>::infinity());
    }

    std::int64_t number() const { return static_cast<std::int64_t>(classes_.size()); }
    std::int32_t class_of(std::int32_t row) const { return classes_[row]; }
    RuleView view() const {
        return {number(), centre_.data(), panels_.data(), offset_.data()};
    }

protected:
    void put(std::int64_t k, const double* row, double offset) {
        double* to = panels_.data() + k / panel_ * panel_ * cols_ + k % panel_;
        for (std::int64_t d = 0; d < cols_; ++d) to[d * panel_] = row[d];
        offset_[k] = offset;
    }

    const std::vector<std::int32_t> classes_;
    const std::int64_t cols_, panel_;
    std::vector<double> centre_;

private:
    LineVector<double> panels_;
    std::vector<double> offset_;
};

std::vector<std::int32_t> classes_where(const DecisionInput& in, bool all) {
    std::vector<std::int32_t> found;
    for (std::int64_t c = 0; c < in.number; ++c)
        if (all || in.counts[c] > 0) found.push_back(static_cast<std::int32_t>(c));
    return found;
}

// |x - mu|^2 orders as |mu|^2 / 2 - <x, mu>. Around a mean in the midst of the others this does not
// cancel, even where one class holds an outlier that moves the mean of means away.
class NearestMean : public PackedRule {
public:
    explicit NearestMean(const DecisionInput& in) : PackedRule(classes_where(in, false), in.cols) {
        std::vector<double> middle(centre_.size()), row(centre_.size());
        const auto mean_of = [&](std::int32_t c) { return in.means + c * cols_; };
        for (const std::int32_t c : classes_)
            for (std::int64_t d = 0; d < cols_; ++d) middle[d] += mean_of(c)[d];
        for (double& value : middle) value /= static_cast<double>(number());
        double least = std::numeric_limits<double>::infinity();
        for (const std::int32_t c : classes_) {
            const double away = squared_distance(mean_of(c), middle.data(), cols_);
            if (c != classes_[0] && !(away < least)) continue;
            least = away;
            std::copy_n(mean_of(c), cols_, centre_.data());
        }
        for (std::int64_t k = 0; k < number(); ++k) {
            const double* mean = mean_of(classes_[k]);
            for (std::int64_t d = 0; d < cols_; ++d) row[d] = mean[d] - centre_[d];
            put(k, row.data(), -squared_distance(mean, centre_.data(), cols_) / 2);
        }
    }
};

class LargestLogit : public PackedRule {
public:
    explicit LargestLogit(const DecisionInput& in) : PackedRule(classes_where(in, true), in.cols) {
        for (std::int64_t k = 0; k < in.number; ++k)
            put(k, in.weight + k * cols_, in.bias == nullptr ? 0 : in.bias[k]);
    }
};

class Comparison {
public:
    Comparison(const Matrix& feats, const Labels& labels, const DecisionInput& in)
        : feats_(feats), labels_(labels), number_(in.number), nearest_(in) {
        if (in.weight != nullptr) rules_.emplace_back(in);
    }

    void run(const Decided& out, int threads) {
        if (nearest_.number() == 0) return;
        const std::int64_t products = feats_.rows * feats_.cols * number_;
        parallel_for((feats_.rows + kTaskRows - 1) / kTaskRows, products < kOneThread ? 1 : threads,
                     [&](std::int64_t task) { add(task * kTaskRows, out); });
    }

private:
    void add(std::int64_t first, const Decided& out) {
        const std::int64_t count = std::min(kTaskRows, feats_.rows - first);
        const auto choose = kernels().products.choose[static_cast<int>(feats_.dtype)];
        LineVector<double> buffer(static_cast<std::size_t>(kMostLeft * (feats_.cols + kPadding)));
        std::int32_t nearest[kTaskRows], chosen[kTaskRows];
        choose(feats_, first, count, nearest_.view(), buffer.data(), nearest);
        for (const LargestLogit& rule : rules_)
            choose(feats_, first, count, rule.view(), buffer.data(), chosen);
        const std::lock_guard<std::mutex> lock(mutex_);  // sums of ones are exact in any order
        visit(labels_, [&](auto* labels) {
            for (std::int64_t i = 0; i < count; ++i) {
                // read once: another thread may write to it meanwhile
                const auto label = static_cast<std::int64_t>(
                    __atomic_load_n(labels + (first + i) * labels_.stride, __ATOMIC_RELAXED));
                if (label < 0 || label >= number_) continue;
                const std::int32_t own = nearest_.class_of(nearest[i]);
                out.hits[label] += own == label;
                if (!rules_.empty()) out.agreements[label] += own == chosen[i];
            }
        });
    }

    const Matrix feats_;
    const Labels labels_;
    const std::int64_t number_;
    const NearestMean nearest_;
    std::vector<LargestLogit> rules_;  // one, or none without a classifier
    std::mutex mutex_;
};

}  // namespace

void compare_decisions(const Matrix& feats, const Labels& labels, const DecisionInput& in,
                       const Decided& out, int threads) {
    Comparison(feats, labels, in).run(out, threads);
    double total = 0, invalid = in.norm_sum;
    out.shares[0] = out.shares[1] = 0;
    for (std::int64_t c = 0; c < in.number; ++c) {
        total += static_cast<double>(in.counts[c]);
        invalid += in.within_ss[c];
        out.shares[0] += out.agreements[c];
        out.shares[1] += out.hits[c];
    }
    for (int i = 0; i < 2; ++i) out.shares[i] = out.shares[i] / total + 0 * invalid;
}

}  // namespace ncfast

// Primitives of the class moments of many states.
#include "summary/summary.h"

#include <numeric>

#include "core/isa.h"
#include "products/second_pass.h"
#include "summary/class_row.h"
#include "summary/spectrum.h"

namespace ncfast {
namespace {

constexpr int kQuantities = 6;

struct PairStatistic {
    double mean, variance, maximum;
};
constexpr PairStatistic kNoPairs{kNan, kNan, kNan};

// The fields of one state, in the order of summary_names.
struct Fields {
    double total, number, bessel, within_trace, norm_mean, norm_max, nan_if_invalid;
    double condition = kNan, condition_centred = kNan;
    double effective_rank = kNan, stable_rank = kNan;  // of the centred means
    double between = kNan, between_sample = kNan;  // traces
    Spread norm{kNan, kNan};  // of the centred means
    Gram gram{kNan, kNan, kNan}, gram_raw{kNan, kNan, kNan};  // centred means, means
    PairStatistic cosine = kNoPairs;
    PairStatistic pairs[kQuantities] = {kNoPairs, kNoPairs, kNoPairs, kNoPairs, kNoPairs, kNoPairs};
};

std::vector<std::string> nested(const std::vector<const char*>& parts,
                                const std::vector<const char*>& fields) {
    std::vector<std::string> names;
    for (const char* part : parts)
        for (const char* field : fields) names.push_back(std::string(part) + "." + field);
    return names;
}

std::vector<std::string> joined(const std::vector<std::vector<std::string>>& parts) {
    std::vector<std::string> names;
    for (const auto& part : parts) names.insert(names.end(), part.begin(), part.end());
    return names;
}

// One value a pair, and its statistics.
struct Values {
    std::vector<double> values;

    double mean() const {
        double sum = 0;
        for (const double value : values) sum += value;
        return sum / static_cast<double>(values.size());
    }
    PairStatistic finish() const {
        const double centre = mean();
        if (std::isinf(centre)) return {centre, kNan, centre};
        double sum = 0;
        for (const double value : values) sum += square(value - centre);
        return {centre, sum / static_cast<double>(values.size()),
                std::isnan(centre) ? kNan : *std::max_element(values.begin(), values.end())};
    }
};

constexpr double kInf = std::numeric_limits<double>::infinity();

// The largest singular value divided by the rank-th one, the smallest of a matrix of that rank.
// Infinite if the latter is 0, even if both are.
double condition(const std::vector<double>& values, double rank) {
    const std::int64_t last = std::min(static_cast<std::int64_t>(rank),
                                       static_cast<std::int64_t>(values.size()));
    if (last <= 0) return kNan;
    return values[last - 1] == 0 ? kInf : values[0] / values[last - 1];
}

// The exponential entropy of the values divided by their sum; NaN if all are 0.
double effective_rank(const std::vector<double>& values) {
    const double sum = std::accumulate(values.begin(), values.end(), 0.0);
    double entropy = 0;
    for (const double value : values) {
        const double share = value / sum;
        entropy -= share * std::log(share > 0 ? share : 1);
    }
    return std::exp(entropy);
}

// The sum of the squares divided by the largest one; NaN if all are 0.
double stable_rank(const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += square(value / values[0]);
    return sum;
}

class Summary {
public:
    Summary(const States& states, Parts parts)
        : parts_(parts), row_(states), k_(states.classes), d_(states.cols), norm_(k_),
          gram_(k_ * k_), raw_(k_ * k_), spectrum_(k_, d_) {}

    // The fields of state i.
    Fields operator()(std::int64_t i) {
        row_.read(i);
        Fields out{row_.total, row_.number, row_.bessel(), row_.within / row_.total,
                   row_.norm_sum / row_.total, row_.norm_max, row_.nan_if_invalid()};
        if (parts_.products || parts_.pairs || parts_.centred_spectrum) row_.centre();
        if (parts_.products || parts_.pairs) write_products(out);
        if (parts_.spectrum)
            out.condition = condition(spectrum_.nonzero(row_.means, out.norm_mean), row_.number);
        if (!parts_.centred_spectrum) return out;
        const std::vector<double>& found = spectrum_.nonzero(row_.centred.data(), out.norm_mean);
        out.condition_centred = condition(found, row_.number - 1);
        out.effective_rank = effective_rank(found);
        out.stable_rank = stable_rank(found);
        return out;
    }

private:
    void write_products(Fields& out) {
        multiply();
        gather();
        out.norm = spread(row_, norm_);
        out.gram = gram(row_, gram_);
        out.gram_raw = gram(row_, raw_);
        out.between = out.gram.trace / row_.number;
        out.between_sample = row_.number > 0 ? between_by_sample_ : kNan;
        out.cosine = cosine_.finish();
        if (!parts_.pairs) return;
        for (int q = 0; q < kQuantities; ++q)
            if (q == 0 || !directionless_) out.pairs[q] = values_[q].finish();
    }

    void multiply() {
        const SmallMatrix& use = kernels().small;
        use.row_products(row_.centred.data(), row_.centred.data(), k_, d_, gram_.data());
        use.row_products(row_.means, row_.means, k_, d_, raw_.data());
        directionless_ = false;
        const double negligible = row_.negligible();
        for (std::int64_t c = 0; c < k_; ++c) {
            norm_[c] = std::sqrt(gram_[c * k_ + c]);
            if (norm_[c] != 0 && norm_[c] <= negligible) drop(c);
            directionless_ = directionless_ || (row_.present(c) && norm_[c] == 0);
        }
    }

    void drop(std::int64_t c) {
        row_.drop(c);
        norm_[c] = 0;
        for (std::int64_t j = 0; j < k_; ++j) gram_[c * k_ + j] = gram_[j * k_ + c] = 0;
    }

    double one_minus_cosine(std::int64_t i, std::int64_t j) const {
        if (norm_[i] == 0 || norm_[j] == 0) return 1;  // a zero vector counts as orthogonal
        const double h = 1 - gram_[i * k_ + j] / (norm_[i] * norm_[j]);
        if (!(h < kClose)) return h;
        double sum = 0;
        for (std::int64_t d = 0; d < d_; ++d)
            sum += square(row_.centred[i * d_ + d] / norm_[i] - row_.centred[j * d_ + d] / norm_[j]);
        return sum / 2;
    }

    // Collects the values of all pairs of present classes.
    void gather() {
        cosine_.values.clear();
        for (Values& each : values_) each.values.clear();
        between_by_sample_ = 0;
        const double simplex = -1 / (row_.number - 1);
        for (std::int64_t i = 0; i < k_; ++i)
            for (std::int64_t j = 0; j < i; ++j)
                if (row_.present(i) && row_.present(j)) add_pair(i, j, simplex);
    }

    void add_pair(std::int64_t i, std::int64_t j, double simplex) {
        const double h = one_minus_cosine(i, j), a = norm_[i], b = norm_[j];
        const double squared = 2 * a * b * h + square(a - b);  // norm(mu_i - mu_j)^2
        cosine_.values.push_back(gram_[i * k_ + j] / (a * b));
        // Adds up to sum_c p_c norm(mu_c - mu_G)^2 without differences that could cancel.
        between_by_sample_ += (row_.weight[i] / row_.total) * (row_.weight[j] / row_.total) * squared;
        if (!parts_.pairs) return;
        const double variances =
            row_.within_ss[i] / row_.weight[i] + row_.within_ss[j] / row_.weight[j];
        const double found[kQuantities] = {variances / (2 * squared), std::abs(1 - simplex - h),
                                           std::abs(1 - h), std::sqrt(2 * h), -std::log(2 * h) / 2,
                                           1 / std::sqrt(2 * h)};
        for (int q = 0; q < kQuantities; ++q) values_[q].values.push_back(found[q]);
    }

    const Parts parts_;
    ClassRow row_;
    const std::int64_t k_, d_;
    std::vector<double> norm_, gram_, raw_;
    Spectrum spectrum_;
    double between_by_sample_ = 0;
    bool directionless_ = false;
    Values cosine_, values_[kQuantities];
};

}  // namespace

const std::vector<std::string>& summary_names() {
    static const std::vector<std::string> names = joined(
        {nested({"traces"}, {"total", "number", "bessel", "within", "norm_mean", "norm_max",
                             "nan_if_invalid"}),
         nested({"condition"}, {"raw", "centred"}),
         nested({"rank"}, {"effective", "stable"}), nested({"between"}, {"trace", "trace_sample"}),
         nested({"norm"}, {"mean", "variance"}),
         nested({"gram", "gram_raw"}, {"trace", "norm", "simplex_distance"}),
         nested({"cosine", "cdnv", "angle", "coherence", "distance", "log", "riesz"},
                {"mean", "variance", "maximum"})});
    return names;
}

void summarise(const States& states, Parts parts, double* out) {
    Summary summary(states, parts);
    constexpr std::int64_t kFields = sizeof(Fields) / sizeof(double);
    for (std::int64_t i = 0; i < states.number; ++i, out += kFields) {
        const Fields found = summary(i);
        std::memcpy(out, &found, sizeof found);
    }
}

void principal_axes(const States& states, double* out) {
    ClassRow row(states);
    Spectrum spectrum(states.classes, states.cols);
    const std::int64_t k = states.classes, d = states.cols;
    for (std::int64_t i = 0; i < states.number; ++i, out += k * (1 + d)) {
        row.read(i);
        row.centre();
        const double negligible = row.negligible();
        for (std::int64_t c = 0; c < k; ++c) {
            const double* mean = row.centred.data() + c * d;
            if (std::sqrt(std::inner_product(mean, mean + d, mean, 0.0)) <= negligible) row.drop(c);
        }
        const auto& values = spectrum.axes(row.centred.data(), row.norm_sum / row.total, out + k);
        std::copy(values.begin(), values.end(), out);
    }
}

AxisSums axis_sums(const States& states, const Matrix& feats, const Labels& labels, int threads) {
    const std::int64_t k = states.classes, d = states.cols;
    ClassRow row(states);
    row.read(0);
    std::vector<double> axes(static_cast<std::size_t>(k * (1 + d))), sums(static_cast<std::size_t>(k));
    principal_axes({1, k, d, states.integer_counts, states.counts, states.means, states.within_ss,
                    states.norm_sum, states.norm_max}, axes.data());
    projected_ss(feats, labels, k, row.means, axes.data() + k, k, sums.data(), threads);
    const double scale = 1 / row.total, cutoff = rank_cutoff(d) * square(axes[0]);
    const double undefined = row.nan_if_invalid();
    AxisSums out{axes[0] > 0 ? undefined : kNan, row.number > 1 ? undefined : kNan};
    for (std::int64_t r = 0; r < k; ++r) {
        const double sigma = square(axes[r]), term = sums[r] * scale / sigma;
        if (sigma > cutoff) out.significant += term;
        if (static_cast<double>(r) < row.number - 1) out.leading += term;
    }
    return out;
}

}  // namespace ncfast

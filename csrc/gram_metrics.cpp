#include "gram_metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "class_row.h"
#include "isa.h"
#include "spectrum.h"

namespace ncfast {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kClose = 1e-5;  // below this 1 - cos has lost more than 1e-10 of its value

double square(double x) { return x * x; }

// Largest over the rank-th singular value, the smallest of a matrix of that rank; infinite where
// that is zero, the largest too.
double condition(const std::vector<double>& values, double rank) {
    const std::int64_t last = std::min(static_cast<std::int64_t>(rank),
                                       static_cast<std::int64_t>(values.size()));
    if (last <= 0) return kNan;
    return values[last - 1] == 0 ? kInf : values[0] / values[last - 1];
}

// Exponential entropy of the singular values that count in a matrix of `cols` columns.
double entropy_rank(const std::vector<double>& values, std::int64_t cols) {
    const double cutoff = rank_cutoff(cols);
    double sum = 0, entropy = 0;
    const auto counts = [&](double value) {
        return !(square(value) <= cutoff * square(values[0]));
    };
    for (const double value : values) sum += counts(value) ? value : 0;
    if (!(sum > 0)) return kNan;
    for (const double value : values)
        if (counts(value)) entropy -= value / sum * std::log(value / sum);
    return std::exp(entropy);
}

double stable_rank(const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) sum += square(value / values[0]);
    return sum;
}

// Mean, population variance and maximum over pairs.
struct Statistic {
    std::vector<double> values;

    void clear() { values.clear(); }
    double mean() const {
        double sum = 0;
        for (const double value : values) sum += value;
        return sum / static_cast<double>(values.size());
    }
    double variance() const {
        const double centre = mean();
        double sum = 0;
        for (const double value : values) sum += square(value - centre);
        return sum / static_cast<double>(values.size());
    }
    double maximum() const {
        const double middle = mean();
        if (std::isnan(middle)) return kNan;
        return *std::max_element(values.begin(), values.end());
    }
};

class Gram {
public:
    Gram(std::int64_t classes, std::int64_t cols, Wanted wanted)
        : wanted_(wanted), k_(classes), d_(cols), row_(classes, cols), norm_(classes),
          gram_(classes * classes), raw_(classes * classes), spectrum_(classes, cols) {}

    void operator()(const double* state, bool integer_weights, double* out) {
        std::fill(out, out + kGramMetrics, kNan);
        row_.read(state, integer_weights);
        write_moments(out);
        if (wanted_.pairs || wanted_.centred_spectrum) row_.centre();
        if (wanted_.pairs) write_pairs(out + kMomentMetrics);
        write_spectral(out + kMomentMetrics + kPairMetrics);
    }

private:
    void products() {
        const SmallMatrix& use = kernels().small;
        use.row_products(row_.centred.data(), row_.centred.data(), k_, d_, gram_.data());
        use.row_products(row_.means, row_.means, k_, d_, raw_.data());
        directionless_ = false;
        for (std::int64_t c = 0; c < k_; ++c) {
            norm_[c] = std::sqrt(gram_[c * k_ + c]);
            directionless_ = directionless_ || (row_.present(c) && norm_[c] == 0);
        }
    }

    double one_minus_cosine(std::int64_t i, std::int64_t j) const {
        if (norm_[i] == 0 || norm_[j] == 0) return 1;  // no direction counts as orthogonal
        const double h = 1 - gram_[i * k_ + j] / (norm_[i] * norm_[j]);
        if (!(h < kClose)) return h;
        double sum = 0;
        for (std::int64_t d = 0; d < d_; ++d)
            sum += square(row_.centred[i * d_ + d] / norm_[i] - row_.centred[j * d_ + d] / norm_[j]);
        return sum / 2;
    }

    // Everything about pairs of present classes.
    void pairs() {
        for (Statistic* each : {&cosine_, &cdnv_, &angle_, &coherence_, &distance_, &log_, &riesz_})
            each->clear();
        between_by_sample_ = 0;
        const double simplex = -1 / (row_.number - 1);
        for (std::int64_t i = 0; i < k_; ++i)
            for (std::int64_t j = 0; j < i; ++j)
                if (row_.present(i) && row_.present(j)) add_pair(i, j, simplex);
    }

    void add_pair(std::int64_t i, std::int64_t j, double simplex) {
        const double h = one_minus_cosine(i, j), a = norm_[i], b = norm_[j];
        const double squared = 2 * a * b * h + square(a - b);  // norm(mu_i - mu_j)^2
        const double spread = row_.variance[i] / row_.weight[i] + row_.variance[j] / row_.weight[j];
        cosine_.values.push_back(gram_[i * k_ + j] / (a * b));
        cdnv_.values.push_back(spread / (2 * squared));
        angle_.values.push_back(std::abs(1 - simplex - h));
        coherence_.values.push_back(std::abs(1 - h));
        distance_.values.push_back(std::sqrt(2 * h));
        log_.values.push_back(-std::log(2 * h) / 2);
        riesz_.values.push_back(1 / std::sqrt(2 * h));
        // sum_c p_c norm(mu_c - mu_G)^2 without a difference that could cancel
        between_by_sample_ += (row_.weight[i] / row_.total) * (row_.weight[j] / row_.total) * squared;
    }

    void write_moments(double* out) const {
        const double within = row_.within / row_.total;
        out[0] = within / square(row_.norm_max);
        out[1] = within / square(row_.norm_sum / row_.total);
    }

    void write_pairs(double* out) {
        products();
        pairs();
        const double within = row_.within / row_.total, between = trace(gram_) / row_.number;
        const double by_sample = row_.number > 0 ? between_by_sample_ : kNan;
        *out++ = within / between;
        *out++ = within / by_sample;
        *out++ = within / (within + between);
        *out++ = within / (within + by_sample);
        *out++ = row_.number > 1 ? relative_deviation(row_, norm_) : kNan;
        *out++ = etf_distance(row_, gram_);
        *out++ = etf_distance(row_, raw_);
        *out++ = cosine_.mean();
        *out++ = std::sqrt(cosine_.variance());
        *out++ = square(trace(gram_)) / sum_of_squares(gram_);
        *out++ = cdnv_.mean();
        *out++ = cdnv_.maximum();
        for (const double value :
             {angle_.mean(), coherence_.maximum(), distance_.mean(), distance_.variance(),
              log_.mean(), log_.variance(), riesz_.mean(), riesz_.variance()})
            *out++ = directionless_ ? kNan : value;
    }

    void write_spectral(double* out) {
        const double norm_mean = row_.norm_sum / row_.total;
        if (wanted_.spectrum) out[0] = condition(spectrum_.nonzero(row_.means, norm_mean), row_.number);
        if (!wanted_.centred_spectrum) return;
        const std::vector<double>& values = spectrum_.nonzero(row_.centred.data(), norm_mean);
        out[1] = condition(values, row_.number - 1);
        out[2] = entropy_rank(values, d_);
        out[3] = stable_rank(values);
    }

    double trace(const std::vector<double>& product) const {
        double sum = 0;
        for (std::int64_t c = 0; c < k_; ++c) sum += product[c * k_ + c];
        return sum;
    }

    static double sum_of_squares(const std::vector<double>& product) {
        double sum = 0;
        for (const double value : product) sum += square(value);
        return sum;
    }

    const Wanted wanted_;
    const std::int64_t k_, d_;
    ClassRow row_;
    std::vector<double> norm_, gram_, raw_;
    Spectrum spectrum_;
    double between_by_sample_ = 0;
    bool directionless_ = false;
    Statistic cosine_, cdnv_, angle_, coherence_, distance_, log_, riesz_;
};

}  // namespace

void gram_metrics(const States& states, Wanted wanted, double* out) {
    Gram gram(states.classes, states.cols, wanted);
    for (std::int64_t i = 0; i < states.number; ++i)
        gram(states.data + i * states.stride, states.integer_weights, out + i * kGramMetrics);
}

}  // namespace ncfast

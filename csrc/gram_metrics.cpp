#include "gram_metrics.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "isa.h"
#include "spectrum.h"

namespace ncfast {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kClose = 1e-5;  // below this 1 - cos has lost more than 1e-10 of its value

double square(double x) { return x * x; }

// Largest over the rank-th singular value, the smallest of a matrix of that rank.
double condition(const std::vector<double>& values, double rank) {
    const std::int64_t last = std::min(static_cast<std::int64_t>(rank),
                                       static_cast<std::int64_t>(values.size()));
    return last > 0 ? values[0] / values[last - 1] : kNan;
}

// Exponential entropy of the singular values that count in a matrix of `cols` columns.
double entropy_rank(const std::vector<double>& values, std::int64_t cols) {
    const double cutoff = static_cast<double>(cols) * std::numeric_limits<double>::epsilon();
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
        : wanted_(wanted), k_(classes), d_(cols), weight_(classes), norm_(classes), mean_(cols),
          centred_(classes * cols), gram_(classes * classes), raw_(classes * classes),
          spectrum_(classes, cols) {}

    void operator()(const double* state, bool integer_weights, double* out) {
        std::fill(out, out + kGramMetrics, kNan);
        read(state, integer_weights);
        write_moments(out);
        if (wanted_.pairs || wanted_.centred_spectrum) centre();
        if (wanted_.pairs) write_pairs(out + kMomentMetrics);
        write_spectral(out + kMomentMetrics + kPairMetrics);
    }

private:
    bool present(std::int64_t c) const { return weight_[c] > 0; }

    void read(const double* state, bool integer_weights) {
        means_ = state + k_;
        const double* within = means_ + k_ * d_;
        total_ = number_ = within_ = 0;
        for (std::int64_t c = 0; c < k_; ++c) {
            std::int64_t count;
            std::memcpy(&count, state + c, sizeof count);
            weight_[c] = integer_weights ? static_cast<double>(count) : state[c];
            total_ += weight_[c];
            number_ += present(c);
            within_ += within[c];
        }
        variance_ = within;
        norm_sum_ = within[k_];
        norm_max_ = within[k_ + 1];
    }

    // Means minus their mean, zero for absent classes.
    void centre() {
        std::fill(mean_.begin(), mean_.end(), 0.0);
        for (std::int64_t c = 0; c < k_; ++c)
            for (std::int64_t d = 0; d < d_; ++d) mean_[d] += means_[c * d_ + d];
        for (double& value : mean_) value /= number_;
        for (std::int64_t c = 0; c < k_; ++c) {
            double* row = centred_.data() + c * d_;
            if (!present(c)) std::fill(row, row + d_, 0.0);
            else
                for (std::int64_t d = 0; d < d_; ++d) row[d] = means_[c * d_ + d] - mean_[d];
        }
    }

    void products() {
        const SmallMatrix& use = kernels().small;
        use.row_products(centred_.data(), k_, d_, gram_.data());
        use.row_products(means_, k_, d_, raw_.data());
        directionless_ = false;
        for (std::int64_t c = 0; c < k_; ++c) {
            norm_[c] = std::sqrt(gram_[c * k_ + c]);
            directionless_ = directionless_ || (present(c) && norm_[c] == 0);
        }
    }

    double one_minus_cosine(std::int64_t i, std::int64_t j) const {
        if (norm_[i] == 0 || norm_[j] == 0) return 1;  // no direction counts as orthogonal
        const double h = 1 - gram_[i * k_ + j] / (norm_[i] * norm_[j]);
        if (!(h < kClose)) return h;
        double sum = 0;
        for (std::int64_t d = 0; d < d_; ++d)
            sum += square(centred_[i * d_ + d] / norm_[i] - centred_[j * d_ + d] / norm_[j]);
        return sum / 2;
    }

    // Everything about pairs of present classes.
    void pairs() {
        for (Statistic* each : {&cosine_, &cdnv_, &angle_, &coherence_, &distance_, &log_, &riesz_})
            each->clear();
        between_by_sample_ = 0;
        const double simplex = -1 / (number_ - 1);
        for (std::int64_t i = 0; i < k_; ++i)
            for (std::int64_t j = 0; j < i; ++j)
                if (present(i) && present(j)) add_pair(i, j, simplex);
    }

    void add_pair(std::int64_t i, std::int64_t j, double simplex) {
        const double h = one_minus_cosine(i, j), a = norm_[i], b = norm_[j];
        const double squared = 2 * a * b * h + square(a - b);  // norm(mu_i - mu_j)^2
        const double spread = variance_[i] / weight_[i] + variance_[j] / weight_[j];
        cosine_.values.push_back(gram_[i * k_ + j] / (a * b));
        cdnv_.values.push_back(spread / (2 * squared));
        angle_.values.push_back(std::abs(1 - simplex - h));
        coherence_.values.push_back(std::abs(1 - h));
        distance_.values.push_back(std::sqrt(2 * h));
        log_.values.push_back(-std::log(2 * h) / 2);
        riesz_.values.push_back(1 / std::sqrt(2 * h));
        // sum_c p_c norm(mu_c - mu_G)^2 without a difference that could cancel
        between_by_sample_ += (weight_[i] / total_) * (weight_[j] / total_) * squared;
    }

    void write_moments(double* out) const {
        const double within = within_ / total_;
        out[0] = within / square(norm_max_);
        out[1] = within / square(norm_sum_ / total_);
    }

    void write_pairs(double* out) {
        products();
        pairs();
        const double within = within_ / total_, between = trace(gram_) / number_;
        const double by_sample = number_ > 0 ? between_by_sample_ : kNan;
        *out++ = within / between;
        *out++ = within / by_sample;
        *out++ = within / (within + between);
        *out++ = within / (within + by_sample);
        *out++ = number_ > 1 ? relative_deviation() : kNan;
        *out++ = etf_distance(gram_);
        *out++ = etf_distance(raw_);
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
        if (wanted_.spectrum) out[0] = condition(spectrum_(means_), number_);
        if (!wanted_.centred_spectrum) return;
        const std::vector<double>& values = spectrum_(centred_.data());
        out[1] = condition(values, number_ - 1);
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

    double relative_deviation() const {
        double mean = 0, squares = 0;
        for (std::int64_t c = 0; c < k_; ++c) mean += present(c) ? norm_[c] : 0.0;
        mean /= number_;
        for (std::int64_t c = 0; c < k_; ++c) squares += present(c) ? square(norm_[c] - mean) : 0.0;
        return std::sqrt(squares / number_) / mean;
    }

    // norm_F(G / norm_F(G) - E), E the simplex ETF of the present classes
    double etf_distance(const std::vector<double>& product) const {
        const double scale = 1 / std::sqrt(sum_of_squares(product));
        const double root = 1 / std::sqrt(number_ - 1);
        double sum = 0;
        for (std::int64_t i = 0; i < k_; ++i)
            for (std::int64_t j = 0; j < k_; ++j) {
                const double both = present(i) && present(j) ? 1.0 : 0.0;
                const double etf = ((i == j ? both : 0.0) - both / number_) * root;
                sum += square(product[i * k_ + j] * scale - etf);
            }
        return std::sqrt(sum);
    }

    const Wanted wanted_;
    const std::int64_t k_, d_;
    std::vector<double> weight_, norm_, mean_, centred_, gram_, raw_;
    Spectrum spectrum_;
    const double *means_ = nullptr, *variance_ = nullptr;
    double total_ = 0, number_ = 0, within_ = 0, norm_sum_ = 0, norm_max_ = 0;
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

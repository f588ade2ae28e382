#include "classifier_metrics.h"

#include <cmath>
#include <limits>

#include "class_row.h"
#include "isa.h"

namespace ncfast {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

double square(double x) { return x * x; }

double dot(const double* a, const double* b, std::int64_t n) {
    double sums[4] = {};
    std::int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int lane = 0; lane < 4; ++lane) sums[lane] += a[i + lane] * b[i + lane];
    for (int lane = 0; i < n; ++i, ++lane) sums[lane] += a[i] * b[i];
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

class Beside {
public:
    Beside(std::int64_t classes, std::int64_t cols, const Classifier& given)
        : given_(given), k_(classes), d_(cols), row_(classes, cols), rows_(classes * cols),
          sum_(cols), norm_(classes), dots_(classes), cosines_(classes),
          product_(classes * classes) {}

    void operator()(const double* state, bool integer_weights, double* out) {
        row_.read(state, integer_weights);
        row_.centre();
        poison_ = 0 * (row_.norm_sum + row_.within) / row_.total;
        if (given_.weight != nullptr) {
            take_rows();
            write_rows(out);
            if (given_.bias != nullptr) out[7] = bias_collapse();
            if (given_.products) write_products(out + 9);
        }
        if (given_.outside != nullptr) out[8] = outside_cosine();
    }

private:
    double defined(double value) const { return row_.number > 1 ? value : kNan; }

    // The classifier's rows of present classes, zero elsewhere; their norms, sum and dots.
    void take_rows() {
        squares_ = mean_squares_ = 0;
        for (std::int64_t c = 0; c < k_; ++c) {
            double* row = rows_.data() + c * d_;
            const double* mean = row_.centred.data() + c * d_;
            for (std::int64_t i = 0; i < d_; ++i) {
                row[i] = row_.present(c) ? given_.weight[c * d_ + i] : 0;
                sum_[i] += row[i];
            }
            const double own = dot(row, row, d_), other = dot(mean, mean, d_);
            norm_[c] = std::sqrt(own);
            dots_[c] = dot(row, mean, d_);
            cosines_[c] = dots_[c] / (norm_[c] * std::sqrt(other));
            squares_ += own;
            mean_squares_ += other;
        }
    }

    void write_rows(double* out) const {
        const double duality = defined(self_duality());
        out[0] = defined(relative_deviation(row_, norm_)) + poison_;
        out[1] = duality;
        out[2] = square(duality);
        out[3] = defined(mean(cosines_));
        out[4] = defined(variance(dots_));
        out[5] = defined(variance(cosines_));
        out[6] = defined(std::sqrt(dot(sum_.data(), sum_.data(), d_) / squares_)) + poison_;
    }

    // norm_F(W / norm_F(W) - M / norm_F(M))
    double self_duality() const {
        const double scale = 1 / std::sqrt(squares_), other = 1 / std::sqrt(mean_squares_);
        double sum = 0;
        for (std::size_t i = 0; i < rows_.size(); ++i)
            sum += square(rows_[i] * scale - row_.centred[i] * other);
        return std::sqrt(sum);
    }

    double mean(const std::vector<double>& values) const {
        double sum = 0;
        for (std::int64_t c = 0; c < k_; ++c) sum += row_.present(c) ? values[c] : 0.0;
        return sum / row_.number;
    }

    double variance(const std::vector<double>& values) const {
        const double centre = mean(values);
        double sum = 0;
        for (std::int64_t c = 0; c < k_; ++c)
            sum += row_.present(c) ? square(values[c] - centre) : 0.0;
        return sum / (row_.number - 1);
    }

    // norm(W mu_G + b), mu_G the mean of all samples
    double bias_collapse() const {
        std::vector<double> centre(d_);
        for (std::int64_t c = 0; c < k_; ++c)
            for (std::int64_t i = 0; i < d_; ++i)
                centre[i] += row_.means[c * d_ + i] * row_.weight[c];
        for (double& value : centre) value /= row_.total;
        double sum = 0;
        for (std::int64_t c = 0; c < k_; ++c)
            if (row_.present(c))
                sum += square(dot(given_.weight + c * d_, centre.data(), d_) + given_.bias[c]);
        return std::sqrt(sum) + poison_;
    }

    double outside_cosine() const {
        const double size = std::sqrt(dot(given_.outside, given_.outside, d_));
        double sum = 0;
        for (std::int64_t c = 0; c < k_; ++c) {
            const double* own = row_.means + c * d_;
            if (row_.present(c))
                sum += std::abs(dot(own, given_.outside, d_) / std::sqrt(dot(own, own, d_))) / size;
        }
        return sum / row_.number;
    }

    void write_products(double* out) {
        const SmallMatrix& use = kernels().small;
        use.row_products(rows_.data(), row_.centred.data(), k_, d_, product_.data());
        out[0] = etf_distance(row_, product_);
        use.row_products(rows_.data(), rows_.data(), k_, d_, product_.data());
        out[1] = etf_distance(row_, product_) + poison_;
        for (std::int64_t c = 0; c < k_; ++c)
            for (std::int64_t i = 0; i < d_; ++i)
                if (row_.present(c)) rows_[c * d_ + i] -= sum_[i] / row_.number;
        use.row_products(rows_.data(), rows_.data(), k_, d_, product_.data());
        out[2] = etf_distance(row_, product_) + poison_;
    }

    const Classifier given_;
    const std::int64_t k_, d_;
    ClassRow row_;
    std::vector<double> rows_, sum_, norm_, dots_, cosines_, product_;
    double squares_ = 0, mean_squares_ = 0, poison_ = 0;
};

}  // namespace

void classifier_metrics(const double* state, std::int64_t classes, std::int64_t cols,
                        bool integer_weights, const Classifier& classifier, double* out) {
    std::fill(out, out + kClassifierMetrics, kNan);
    Beside(classes, cols, classifier)(state, integer_weights, out);
}

}  // namespace ncfast

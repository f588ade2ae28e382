// Primitives of a linear classifier and the class means of many states: what NC3 reads.
#include "core/isa.h"
#include "summary/class_row.h"
#include "summary/summary.h"

namespace ncfast {
namespace {

// The fields of one state, in the order of classifier_names.
struct Fields {
    double frobenius, sum;  // norm of all rows, norm of the sum of the rows
    double gap;             // norm_F(W / norm_F(W) - M / norm_F(M))
    Spread norm;            // of the rows w_c
    Spread dot, cosine;     // of w_c with mu_c - m
    double logits;          // norm of <w_c, mu_G> + b_c
    Gram cross, gram, gram_raw;  // W M^T, of the centred rows, of the rows
};

double dot(const double* a, const double* b, std::int64_t n) {
    double sums[4] = {};
    std::int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int lane = 0; lane < 4; ++lane) sums[lane] += a[i + lane] * b[i + lane];
    for (int lane = 0; i < n; ++i, ++lane) sums[lane] += a[i] * b[i];
    return (sums[0] + sums[2]) + (sums[1] + sums[3]);
}

class Classifier {
public:
    Classifier(const States& states, Part weights, Part biases, bool products)
        : weights_(weights), biases_(biases), products_(products), row_(states),
          k_(states.classes), d_(states.cols), rows_(k_ * d_), sum_(d_), norms_(k_), dots_(k_),
          cosines_(k_), product_(k_ * k_) {}

    Fields operator()(std::int64_t i) {
        row_.read(i);
        row_.centre();
        take_rows(weights_[i]);
        undefined_ = row_.nan_if_invalid() + (row_.number > 1 ? 0 : kNan);
        Fields out{};
        out.norm = over_classes(norms_);
        out.frobenius = std::sqrt(squares_) + undefined_;
        out.sum = std::sqrt(dot(sum_.data(), sum_.data(), d_)) + undefined_;
        out.dot = over_classes(dots_);
        out.cosine = over_classes(cosines_);
        out.gap = gap() + undefined_;
        out.logits = biases_.data == nullptr ? kNan : norm_of_logits(biases_[i]);
        out.cross = out.gram = out.gram_raw = {kNan, kNan, kNan};
        if (products_) multiply(out);
        return out;
    }

private:
    Spread over_classes(const std::vector<double>& values) const {
        const Spread found = spread(row_, values);
        return {found.mean + undefined_, found.variance + undefined_};
    }

    // Copies the rows of present classes, 0 for absent ones; computes their norms, their sum and
    // their products with the centred means.
    void take_rows(const double* weight) {
        const double negligible = row_.negligible();
        squares_ = mean_squares_ = 0;
        std::fill(sum_.begin(), sum_.end(), 0.0);
        for (std::int64_t c = 0; c < k_; ++c) {
            double* row = rows_.data() + c * d_;
            const double* mean = row_.centred.data() + c * d_;
            for (std::int64_t i = 0; i < d_; ++i) {
                row[i] = row_.present(c) ? weight[c * d_ + i] : 0;
                sum_[i] += row[i];
            }
            const double own = dot(row, row, d_);
            double other = dot(mean, mean, d_);
            if (other != 0 && std::sqrt(other) <= negligible) row_.drop(c), other = 0;
            norms_[c] = std::sqrt(own);
            dots_[c] = dot(row, mean, d_);
            cosines_[c] = dots_[c] / (norms_[c] * std::sqrt(other));
            squares_ += own;
            mean_squares_ += other;
        }
    }

    double gap() const {
        const double scale = 1 / std::sqrt(squares_), other = 1 / std::sqrt(mean_squares_);
        double sum = 0;
        for (std::size_t i = 0; i < rows_.size(); ++i)
            sum += square(rows_[i] * scale - row_.centred[i] * other);
        return std::sqrt(sum);
    }

    // Scaled by the largest logit: squares may leave the range of double.
    double norm_of_logits(const double* bias) {
        std::vector<double> centre(static_cast<std::size_t>(d_)), logits;
        double largest = 0, sum = row_.nan_if_invalid();
        for (std::int64_t c = 0; c < k_; ++c)
            for (std::int64_t i = 0; i < d_; ++i)
                centre[i] += row_.means[c * d_ + i] * row_.weight[c];
        for (double& value : centre) value /= row_.total;
        for (std::int64_t c = 0; c < k_; ++c) {
            if (!row_.present(c)) continue;
            logits.push_back(dot(rows_.data() + c * d_, centre.data(), d_) + bias[c]);
            sum += 0 * logits.back();  // NaN stays NaN
            largest = std::max(largest, std::abs(logits.back()));
        }
        if (largest == 0) return sum;
        for (const double logit : logits) sum += square(logit / largest);
        return largest * std::sqrt(sum);
    }

    Gram product(const LineVector<double>& left, const LineVector<double>& right) {
        kernels().small.row_products(left.data(), right.data(), k_, d_, product_.data());
        const Gram found = gram(row_, product_);
        return {found.trace + undefined_, found.norm + undefined_,
                found.simplex_distance + undefined_};
    }

    void multiply(Fields& out) {
        out.cross = product(rows_, row_.centred);
        out.gram_raw = product(rows_, rows_);
        for (std::int64_t c = 0; c < k_; ++c)
            for (std::int64_t i = 0; i < d_; ++i)
                if (row_.present(c)) rows_[c * d_ + i] -= sum_[i] / row_.number;
        out.gram = product(rows_, rows_);
    }

    const Part weights_, biases_;
    const bool products_;
    ClassRow row_;
    const std::int64_t k_, d_;
    LineVector<double> rows_;
    std::vector<double> sum_, norms_, dots_, cosines_, product_;
    double squares_ = 0, mean_squares_ = 0, undefined_ = 0;
};

}  // namespace

const std::vector<std::string>& classifier_names() {
    static const std::vector<std::string> names = {
        "size.frobenius", "size.sum", "size.gap", "norm.mean", "norm.variance",
        "dot.mean", "dot.variance", "cosine.mean", "cosine.variance", "logits.norm",
        "cross.trace", "cross.norm", "cross.simplex_distance",
        "gram.trace", "gram.norm", "gram.simplex_distance",
        "gram_raw.trace", "gram_raw.norm", "gram_raw.simplex_distance"};
    return names;
}

void classifier_summary(const States& states, Part weights, Part biases, bool products,
                        double* out) {
    Classifier classifier(states, weights, biases, products);
    constexpr std::int64_t kFields = sizeof(Fields) / sizeof(double);
    for (std::int64_t i = 0; i < states.number; ++i, out += kFields) {
        const Fields found = classifier(i);
        std::memcpy(out, &found, sizeof found);
    }
}

}  // namespace ncfast

// Compares the kernels with plain loops in double, for tests/ops/test_sanitizers.py and
// test_neon.py. Exits with 0 if all agree, and prints the instruction sets that ran.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "checks.h"
#include "core/isa.h"
#include "moments/moments.h"
#include "products/second_pass.h"
#include "tracker/norm.h"

using namespace ncfast;

namespace {

struct Case {
    std::int64_t rows, cols, classes, stride;
    int threads;
};

std::uint16_t to_bf16(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return static_cast<std::uint16_t>(bits >> 16);
}
float from_bf16(std::uint16_t half) {
    const std::uint32_t bits = std::uint32_t{half} << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// A matrix in memory that ends with its last entry, so that the sanitizer catches a read beyond it.
struct Data {
    std::vector<char> bytes;
    std::vector<double> values;
    std::vector<std::int16_t> labels;
};

Data make(const Case& c, Dtype dtype) {
    Data data;
    std::mt19937 generator(7);
    std::normal_distribution<float> normal;
    const auto size = static_cast<std::int64_t>(size_of(dtype));
    const std::int64_t elements = (c.rows - 1) * c.stride + c.cols;
    data.bytes.resize(static_cast<std::size_t>(elements * size));
    data.values.resize(static_cast<std::size_t>(elements));
    for (std::int64_t i = 0; i < elements; ++i) {
        float value = 1 + normal(generator);
        char* at = data.bytes.data() + i * size;
        if (dtype == Dtype::f32) std::memcpy(at, &value, 4);
        if (dtype == Dtype::f64) {
            const double wide = value;
            std::memcpy(at, &wide, 8);
        }
        if (dtype == Dtype::bf16) {
            const std::uint16_t half = to_bf16(value);
            std::memcpy(at, &half, 2);
            value = from_bf16(half);
        }
        if (dtype == Dtype::f16) {  // the bits of 1 + j / 1024
            const auto step = static_cast<std::uint16_t>(generator() % 1024);
            const auto half = static_cast<std::uint16_t>(0x3c00 + step);
            std::memcpy(at, &half, 2);
            value = 1 + static_cast<float>(step) / 1024;
        }
        data.values[static_cast<std::size_t>(i)] = value;
    }
    for (std::int64_t i = 0; i < c.rows; ++i)
        data.labels.push_back(static_cast<std::int16_t>(generator() % c.classes));
    return data;
}

bool close(double a, double b) { return std::abs(a - b) <= 1e-6 * std::abs(b) + 1e-300; }

// The number of rows whose nearest class mean is that of their class.
double nearest_is_own(const Matrix& feats, const std::vector<double>& values,
                      const std::vector<std::int16_t>& labels,
                      const std::vector<std::int64_t>& counts, const std::vector<double>& means) {
    double total = 0;
    for (std::int64_t i = 0; i < feats.rows; ++i) {
        double least = INFINITY;
        std::size_t nearest = 0;
        for (std::size_t c = 0; c < counts.size(); ++c) {
            double distance = counts[c] > 0 ? 0 : INFINITY;
            for (std::int64_t d = 0; d < feats.cols; ++d) {
                const double gap = values[i * feats.stride + d] - means[c * feats.cols + d];
                distance += gap * gap;
            }
            if (distance < least) least = distance, nearest = c;
        }
        total += nearest == static_cast<std::size_t>(labels[i]);
    }
    return total;
}

// Compares scatter, distances and decisions with plain loops. The other second passes must be finite: every
// read and write happens under the sanitizers.
bool second_passes_agree(const Matrix& feats, const std::vector<double>& values,
                                const std::vector<std::int16_t>& short_labels,
                                const std::vector<std::int64_t>& counts,
                                const std::vector<double>& means, std::int64_t classes,
                                int threads) {
    const std::int64_t cols = feats.cols;
    const std::vector<std::int64_t> labels(short_labels.begin(), short_labels.end());
    std::vector<double> total(cols * cols, NAN), distances(feats.rows, NAN);
    scatter(feats, labels.data(), means.data(), total.data(), threads);
    own_distances(feats, labels.data(), means.data(), distances.data(), threads);
    double trace = 0, sum = 0, expected = 0;
    for (std::int64_t i = 0; i < feats.rows; ++i)
        for (std::int64_t d = 0; d < cols; ++d) {
            const double gap = values[i * feats.stride + d] - means[labels[i] * cols + d];
            expected += gap * gap;
        }
    for (std::int64_t d = 0; d < cols; ++d) trace += total[d * cols + d];
    for (const double each : distances) sum += each * each;
    const auto near = [&](double found) {
        return std::abs(found - expected) <= 1e-9 * expected + 1e-12;
    };

    std::vector<double> variances(classes, 0.5), bias(classes, 0.1), length(classes, 1.0);
    std::vector<double> projected(classes, NAN), spread(classes, NAN), radius(classes, NAN);
    std::vector<double> nearest(classes, NAN);
    const MarginInput in{classes,          cols,          means.data(), means.data(),
                         variances.data(), counts.data(), means.data(), bias.data()};
    margins(feats, {labels.data(), LabelType::i64, 1}, in,
            {projected.data(), spread.data(), radius.data()}, threads);
    std::vector<double> unit(means);
    for (double& each : unit) each /= std::sqrt(static_cast<double>(cols)) * 8;
    const PairSums sums = class_pairs(unit.data(), length.data(), variances.data(), classes, cols,
                                      0.0, nearest.data(), threads);
    std::vector<double> squares(classes * classes), hits(classes), agreements(classes), share(2);
    add_projected_squares(feats, {labels.data(), LabelType::i64, 1},
                          {classes, cols, means.data(), means.data()}, squares.data());
    compare_decisions(feats, {short_labels.data(), LabelType::i16, 1},
                      {classes, cols, means.data(), counts.data(), variances.data(), 1.0,
                       means.data(), bias.data()},
                      {agreements.data(), hits.data(), share.data()}, threads);
    double correct = 0;
    for (const double each : hits) correct += each;
    bool good = near(trace) && near(sum) && share[0] >= 0 && share[0] <= 1 &&
                correct == nearest_is_own(feats, values, short_labels, counts, means) && sums.count == classes * (classes - 1) / 2;
    for (std::int64_t c = 0; c < classes; ++c)
        good = good && projected[c] >= 0 && spread[c] >= 0 && radius[c] >= 0 && nearest[c] >= 0;
    return good;
}

bool agrees(const Case& c, Dtype dtype) {
    const Data data = make(c, dtype);
    const Matrix feats{data.bytes.data(), dtype, c.rows, c.cols, c.stride};
    const Labels labels{data.labels.data(), LabelType::i16, 1};
    std::vector<std::int64_t> counts(c.classes);
    std::vector<double> means(c.classes * c.cols, NAN), within(c.classes, NAN), sums(2, NAN);
    double norm_sum = NAN, norm_max = NAN;
    class_moments(feats, labels, c.classes,
                  {counts.data(), means.data(), within.data(), &norm_sum, &norm_max}, c.threads);
    std::vector<double> vectors(2 * c.cols);
    for (std::size_t i = 0; i < vectors.size(); ++i) vectors[i] = 1.0 / (1.0 + i);
    projected_ss(feats, labels, c.classes, means.data(), vectors.data(), 2, sums.data(), c.threads);

    std::vector<double> expected(c.classes * c.cols), ss(c.classes);
    std::vector<std::int64_t> rows(c.classes);
    const auto value = [&](std::int64_t i, std::int64_t d) { return data.values[i * c.stride + d]; };
    for (std::int64_t i = 0; i < c.rows; ++i, ++rows[data.labels[i - 1]])
        for (std::int64_t d = 0; d < c.cols; ++d) expected[data.labels[i] * c.cols + d] += value(i, d);
    for (std::int64_t k = 0; k < c.classes; ++k)
        for (std::int64_t d = 0; d < c.cols; ++d)
            expected[k * c.cols + d] /= rows[k] ? static_cast<double>(rows[k]) : 1.0;
    double sum = 0, largest = 0, projected = 0;
    for (std::int64_t i = 0; i < c.rows; ++i) {
        double square = 0, dot = 0;
        for (std::int64_t d = 0; d < c.cols; ++d) {
            const double deviation = value(i, d) - expected[data.labels[i] * c.cols + d];
            ss[data.labels[i]] += deviation * deviation;
            square += value(i, d) * value(i, d);
            dot += deviation * vectors[d];
        }
        sum += std::sqrt(square);
        largest = std::max(largest, std::sqrt(square));
        projected += dot * dot;
    }
    double squares = 0;
    for (const double each : data.values) squares += each * each;
    const auto elements = static_cast<std::int64_t>(data.values.size());
    const double size = norm({{data.bytes.data(), dtype, elements}, {data.bytes.data(), dtype, 1}},
                             c.threads);
    const double first = data.values[0] * data.values[0];
    bool good = rows == counts && close(size, std::sqrt(squares + first)) && close(norm_sum, sum) &&
                close(norm_max, largest) && std::abs(sums[0] - projected) <= 1e-5 * projected;
    for (std::int64_t k = 0; k < c.classes; ++k) good = good && close(within[k], ss[k]);
    for (std::size_t i = 0; i < means.size(); ++i) good = good && close(means[i], expected[i]);
    return good && (c.rows * c.cols > 200000 ||
                    second_passes_agree(feats, data.values, data.labels, counts, means, c.classes,
                                        c.threads));
}

}  // namespace

int main() {
    const Case cases[] = {{1, 1, 1, 1, 1},       {5, 3, 2, 3, 1},      {67, 17, 3, 20, 2},
                          {300, 200, 10, 200, 2}, {90, 1000, 4, 1001, 1}, {40, 33, 600, 40, 2},
                          {9000, 130, 7, 130, 3}, {280000, 2, 9, 2, 4},
                          {34000, 64, 5, 64, 3}};
    int failures = 0;
    for (const Kernels* each : usable_kernels()) {
        use_kernels(each->name);
        for (const Case& c : cases)
            for (const Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16, Dtype::f16})
                if (!agrees(c, dtype)) {
                    ++failures;
                    std::printf("wrong: %s rows=%ld cols=%ld dtype=%d\n", each->name,
                                static_cast<long>(c.rows), static_cast<long>(c.cols),
                                static_cast<int>(dtype));
                }
        failures += check_all_neighbors() + check_states() + check_averages() + check_updates() +
                    check_hostile();
        std::printf("%s: done\n", each->name);
    }
    return failures == 0 ? 0 : 1;
}

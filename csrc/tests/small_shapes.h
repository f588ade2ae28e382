// Primitives of moments and singular values on memory that ends where they end.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "summary/summary.h"
#include "summary/spectrum.h"

namespace ncfast {

// The squares of the singular values add up to those of the entries.
inline bool spectrum_agrees(std::int64_t rows, std::int64_t cols) {
    std::mt19937 generator(3);
    std::normal_distribution<double> normal;
    std::vector<double> matrix(static_cast<std::size_t>(rows * cols));
    double entries = 0, values = 0;
    for (double& entry : matrix) {
        entry = normal(generator);
        entries += entry * entry;
    }
    Spectrum spectrum(rows, cols);
    for (const double value : spectrum(matrix.data())) values += value * value;
    return std::abs(values / entries - 1) < 1e-12;
}

inline double field(const std::vector<std::string>& names, const std::vector<double>& out,
                    const std::string& name) {
    for (std::size_t f = 0; f < names.size(); ++f)
        if (names[f] == name) return out[f];
    return NAN;
}

// Unit vectors: an orthogonal frame of equal norms, whose centred means are a simplex.
inline bool simplex_agrees(std::int64_t number, std::int64_t cols) {
    std::vector<double> counts(static_cast<std::size_t>(number), 2.0), within(counts.size(), 0.0);
    std::vector<double> means(static_cast<std::size_t>(number * cols), 0.0);
    for (std::int64_t c = 0; c < number; ++c) means[c * cols + c] = 3;
    const double sum = 6.0 * static_cast<double>(number), max = 3;
    const States states{1, number, cols, false, {counts.data(), number}, {means.data(), 0},
                        {within.data(), 0}, {&sum, 0}, {&max, 0}};
    std::vector<double> means_out(summary_names().size() + static_cast<std::size_t>(number));
    std::vector<double> rows_out(classifier_names().size());
    summarise(states, {true, true, true, true}, means_out.data());
    classifier_summary(states, {means.data(), 0}, true, rows_out.data());
    const auto of_means = [&](const char* name) { return field(summary_names(), means_out, name); };
    const auto of_rows = [&](const char* name) { return field(classifier_names(), rows_out, name); };
    // rows that are the means themselves: dual but for the centre
    return of_means("traces.norm_mean") == 3 && of_means("gram.simplex_distance") < 1e-7 &&
           of_means("cdnv.mean") == 0 && std::abs(of_means("condition.raw") - 1) < 1e-12 &&
           of_rows("norm.variance") < 1e-12 && of_rows("size.gap") < 1;
}

inline int check_small() {
    int failures = 0;
    for (const std::int64_t rows : {1, 2, 7, 10, 32})
        for (const std::int64_t cols : {1, 3, 10, 33})
            failures += !spectrum_agrees(rows, cols);
    for (const std::int64_t number : {2, 5, 9}) failures += !simplex_agrees(number, number + 3);
    return failures;
}

}  // namespace ncfast

// Metrics of moments and singular values on memory that ends where they end.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "../classifier_metrics.h"
#include "../gram_metrics.h"
#include "../spectrum.h"

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

// Unit vectors: an orthogonal frame of equal norms, whose centred means are a simplex.
inline bool simplex_agrees(std::int64_t number, std::int64_t cols) {
    std::vector<double> state(static_cast<std::size_t>(number * (cols + 2) + 2), 0.0);
    std::vector<double> out(kGramMetrics);
    for (std::int64_t c = 0; c < number; ++c) {
        state[c] = 2;
        state[number + c * cols + c] = 3;
    }
    state[state.size() - 2] = 6.0 * static_cast<double>(number);
    state.back() = 3;
    gram_metrics({state.data(), 1, static_cast<std::int64_t>(state.size()), number, cols, false},
                 {true, true, true}, out.data());
    const std::vector<double> weight(state.begin() + number, state.end() - number - 2);
    const std::vector<double> bias(static_cast<std::size_t>(number), 1.0);
    std::vector<double> beside(kClassifierMetrics, NAN);
    classifier_metrics(state.data(), number, cols, false,
                       {weight.data(), bias.data(), weight.data(), true}, beside.data());
    // rows that are the means themselves: dual but for the centre, which is in no mean's direction
    if (!(beside[0] < 1e-12 && beside[1] < 1 && std::abs(beside[8] - 1.0 / number) < 1e-12))
        return false;
    const double stable = out[kGramMetrics - 1], condition = out[kGramMetrics - 4];
    return std::abs(stable - static_cast<double>(number - 1)) < 1e-12 &&
           std::abs(condition - 1) < 1e-12;
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

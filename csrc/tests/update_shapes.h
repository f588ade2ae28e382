// The update in place against plain loops in double: rows left out, classes that are cut or absent.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "moments/update.h"

namespace ncfast {

struct UpdateCase {
    std::int64_t rows, cols, classes, stride;
    int threads;
};

// What update_moments writes, in memory of its own.
struct OwnState {
    std::vector<std::int64_t> counts;
    std::vector<double> means, within, scatter;
    double norm_sum = 0, norm_max = 0;
    std::int64_t left_out = 0;

    OwnState(std::int64_t classes, std::int64_t cols)
        : counts(classes), means(classes * cols), within(classes), scatter(cols * cols) {}
    Moments view() { return {counts.data(), means.data(), within.data(), &norm_sum, &norm_max}; }

    // Welford's recurrence, one row at a time.
    void add(const float* x, std::int64_t label) {
        const auto cols = static_cast<std::int64_t>(means.size() / counts.size());
        const auto count = static_cast<double>(++counts[label]);
        double* mean = means.data() + label * cols;
        std::vector<double> gap(cols);
        double square = 0;
        for (std::int64_t d = 0; d < cols; ++d) {
            gap[d] = x[d] - mean[d];
            mean[d] += gap[d] / count;
            within[label] += gap[d] * gap[d] * (count - 1) / count;
            square += double{x[d]} * x[d];
        }
        for (std::int64_t d = 0; d < cols; ++d)
            for (std::int64_t e = 0; e < cols; ++e)
                scatter[d * cols + e] += gap[d] * gap[e] * (count - 1) / count;
        norm_sum += std::sqrt(square);
        norm_max = std::max(norm_max, std::sqrt(square));
    }
};

inline bool close_to(const std::vector<double>& found, const std::vector<double>& expected) {
    for (std::size_t i = 0; i < found.size(); ++i)
        if (!(std::abs(found[i] - expected[i]) <= 1e-9 * (1 + std::abs(expected[i])))) return false;
    return true;
}

inline bool agree(const OwnState& found, const OwnState& expected) {
    return found.counts == expected.counts && found.left_out == expected.left_out &&
           close_to(found.means, expected.means) && close_to(found.within, expected.within) &&
           close_to({found.norm_sum, found.norm_max}, {expected.norm_sum, expected.norm_max});
}

inline bool update_agrees(const UpdateCase& c) {
    std::mt19937 generator(3);
    std::normal_distribution<float> normal;
    // exactly as many numbers as the matrix owns: a read beyond the last one is caught
    std::vector<float> values((c.rows - 1) * c.stride + c.cols);
    for (float& value : values) value = 1 + normal(generator);
    std::vector<std::int16_t> labels(c.rows);
    std::vector<std::uint8_t> mask(c.rows);
    for (std::int64_t i = 0; i < c.rows; ++i) {
        labels[i] = i % 9 == 8 ? -100 : static_cast<std::int16_t>(generator() % c.classes / 2);
        mask[i] = generator() % 4 != 0;
    }
    const Batch batch{{values.data(), Dtype::f32, c.rows, c.cols, c.stride},
                      {labels.data(), LabelType::i16, 1}, mask.data(), 1, -100};
    OwnState plain(c.classes, c.cols), wide(c.classes, c.cols), expected(c.classes, c.cols);
    const auto update = [&](OwnState& state, double* scatter) {
        return update_moments(batch, c.classes, state.view(), &state.left_out, scatter, c.threads);
    };
    for (int turn = 0; turn < 2; ++turn) {
        if (update(plain, nullptr) != -1 || update(wide, wide.scatter.data()) != -1) return false;
        for (std::int64_t i = 0; i < c.rows; ++i) {
            if (mask[i] == 0 || labels[i] == -100) ++expected.left_out;
            else expected.add(values.data() + i * c.stride, labels[i]);
        }
    }
    const bool good = agree(plain, expected) && agree(wide, expected) &&
                      close_to(wide.scatter, expected.scatter);
    labels[c.rows - 1] = -7;
    mask[c.rows - 1] = 1;
    const std::vector<double> before = plain.means;
    return good && update(plain, nullptr) == c.rows - 1 && plain.means == before;
}

inline int check_updates() {
    int wrong = 0;
    for (const UpdateCase& c : {UpdateCase{1, 1, 1, 1, 1}, UpdateCase{40, 33, 600, 40, 2},
                                UpdateCase{700, 17, 3, 20, 2}, UpdateCase{3000, 67, 2, 67, 3},
                                UpdateCase{9, 130, 4, 131, 1}})
        if (!update_agrees(c)) {
            ++wrong;
            std::printf("wrong update: rows=%ld cols=%ld\n", static_cast<long>(c.rows),
                        static_cast<long>(c.cols));
        }
    return wrong;
}

}  // namespace ncfast

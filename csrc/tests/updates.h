// The update in place against plain loops in double: rows left out, classes that are cut or absent.
// Then labels that another thread changes during a call, and tasks that throw: results may be wrong,
// but no memory access may be.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <new>
#include <random>
#include <thread>
#include <vector>

#include "core/pool.h"
#include "moments/moments.h"
#include "products/second_pass.h"

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

// ---- hostile callers ----

// The number of rows gives each thread a histogram; few classes take the path of lanes.
inline int check_changing_labels(std::int64_t classes, std::int64_t cols) {
    const std::int64_t rows = 70000;
    std::vector<float> values(static_cast<std::size_t>(rows * cols), 1.0f);
    std::vector<std::int64_t> labels(static_cast<std::size_t>(rows));
    std::vector<std::int64_t> counts(static_cast<std::size_t>(classes));
    std::vector<double> means(static_cast<std::size_t>(classes * cols)), within(counts.size());
    std::vector<double> vector(static_cast<std::size_t>(cols), 1.0);
    double norm_sum = 0, norm_max = 0, sum = 0;
    std::atomic<bool> going{true};
    std::thread other([&] {
        for (std::int64_t turn = 0; going.load(); ++turn)
            for (std::int64_t i = 0; i < rows; ++i)
                __atomic_store_n(&labels[static_cast<std::size_t>(i)],
                                 (i * 7 + turn) % 5 == 0 ? -turn : (i + turn) % classes,
                                 __ATOMIC_RELAXED);
    });
    const Matrix feats{values.data(), Dtype::f32, rows, cols, cols};
    const Labels read{labels.data(), LabelType::i64, 1};
    for (int turn = 0; turn < 8; ++turn) {
        class_moments(feats, read, classes,
                      {counts.data(), means.data(), within.data(), &norm_sum, &norm_max}, 2);
        projected_ss(feats, read, classes, means.data(), vector.data(), 1, &sum, 2);
    }
    going.store(false);
    other.join();
    std::int64_t total = 0;
    for (const std::int64_t count : counts) total += count;
    if (total != rows) std::printf("changing labels: %lld rows\n", static_cast<long long>(total));
    return total != rows;
}

// All tasks but one throw; afterwards the pool must work.
inline int check_throwing_tasks() {
    int wrong = 0;
    for (int turn = 0; turn < 50; ++turn) {
        bool caught = false;
        try {
            std::vector<int> own(64);  // destroyed with the caller's frame
            parallel_for(64, 3, [&](std::int64_t i) {
                own[static_cast<std::size_t>(i)] = 1;
                if (i != turn) throw std::bad_alloc();
            });
        } catch (const std::bad_alloc&) {
            caught = true;
        }
        std::atomic<int> done{0};
        parallel_for(64, 3, [&](std::int64_t) { ++done; });
        wrong += !caught || done.load() != 64;
    }
    if (wrong != 0) std::printf("throwing tasks: %d wrong\n", wrong);
    return wrong;
}

inline int check_hostile() {
    return check_changing_labels(1000, 4) + check_changing_labels(3, 40) + check_throwing_tasks();
}

}  // namespace ncfast

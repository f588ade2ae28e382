// Labels that another thread changes during a call, and tasks that throw: results may be wrong, but
// no memory access may be.
#pragma once

#include <atomic>
#include <cstdio>
#include <new>
#include <thread>
#include <vector>

#include "core/pool.h"
#include "moments/moments.h"
#include "products/second_pass.h"

namespace ncfast {

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

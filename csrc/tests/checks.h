// Checks of states, searches and updates against plain loops, for sanitize.cpp.
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
#include "neighbors/exact.h"
#include "neighbors/search.h"
#include "products/second_pass.h"
#include "summary/spectrum.h"
#include "summary/summary.h"
#include "tracker/average.h"

namespace ncfast {

// Primitives of states, singular values and running averages against their definitions, on memory
// that ends with the last entry.

// The squares of the singular values sum to those of the entries.
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

// The directions of the axes of centred means are orthonormal; a simplex has equal singular values,
// and with features at the means all sums over its axes are 0.
inline bool axes_agree(const States& states) {
    const std::int64_t k = states.classes, d = states.cols;
    std::vector<double> axes(static_cast<std::size_t>(k * (1 + d)));
    principal_axes(states, axes.data());
    const double* rows = axes.data() + k;
    bool good = std::abs(axes[0] - axes[k - 2]) < 1e-12 && axes[k - 1] == 0;
    for (std::int64_t i = 0; i < k; ++i)
        for (std::int64_t j = 0; j < k; ++j) {
            double product = 0;
            for (std::int64_t c = 0; c < d; ++c) product += rows[i * d + c] * rows[j * d + c];
            good = good && std::abs(product - (i == j)) < 1e-12;
        }
    std::vector<std::int64_t> labels(static_cast<std::size_t>(k));
    for (std::int64_t c = 0; c < k; ++c) labels[c] = c;
    const Matrix feats{states.means[0], Dtype::f64, k, d, d};
    const AxisSums sums = axis_sums(states, feats, {labels.data(), LabelType::i64, 1}, 2);
    return good && sums.significant == 0 && sums.leading == 0;
}

// The means are an orthogonal frame of equal norms, whose centred means are a simplex.
inline bool simplex_agrees(std::int64_t number, std::int64_t cols) {
    std::vector<double> counts(static_cast<std::size_t>(number), 2.0), within(counts.size(), 0.0);
    std::vector<double> means(static_cast<std::size_t>(number * cols), 0.0);
    for (std::int64_t c = 0; c < number; ++c) means[c * cols + c] = 3;
    const double sum = 6.0 * static_cast<double>(number), max = 3;
    const States states{1, number, cols, false, {counts.data(), number}, {means.data(), 0},
                        {within.data(), 0}, {&sum, 0}, {&max, 0}};
    std::vector<double> means_out(summary_names().size());
    std::vector<double> rows_out(classifier_names().size());
    summarise(states, {true, true, true, true}, means_out.data());
    const std::vector<double> bias(counts.size(), 4.0);
    classifier_summary(states, {means.data(), 0}, {bias.data(), 0}, true, rows_out.data());
    const auto of_means = [&](const char* name) { return field(summary_names(), means_out, name); };
    const auto of_rows = [&](const char* name) { return field(classifier_names(), rows_out, name); };
    // The rows of the classifier are the means themselves: dual except for the centre.
    return of_means("traces.norm_mean") == 3 && of_means("gram.simplex_distance") < 1e-7 &&
           of_means("cdnv.mean") == 0 && std::abs(of_means("condition.raw") - 1) < 1e-12 &&
           of_rows("norm.variance") < 1e-12 && of_rows("size.gap") < 1 &&
           axes_agree(states) &&
           std::abs(of_rows("logits.norm") -
                    (9.0 / static_cast<double>(number) + 4) * std::sqrt(number)) < 1e-12;
}

inline int check_states() {
    int failures = 0;
    for (const std::int64_t rows : {1, 2, 7, 10, 32})
        for (const std::int64_t cols : {1, 3, 10, 33})
            failures += !spectrum_agrees(rows, cols);
    for (const std::int64_t number : {2, 5, 9}) failures += !simplex_agrees(number, number + 3);
    return failures;
}

struct AverageCase {
    std::int64_t classes, cols, length;
    double decay;
};

// Compares the means of the classes and the largest norm after batch `last` with their definitions.
inline bool average_agrees(const AverageCase& c, const std::vector<double>& batches,
                           const std::vector<double>& averages, std::int64_t last) {
    const std::int64_t size = c.classes * (c.cols + 2) + 2, end = (last + 1) * size;
    for (std::int64_t k = 0; k < c.classes; ++k)
        for (std::int64_t d = 0; d < c.cols; ++d) {
            double weight = 0, total = 0, largest = 0, sum = 0, ones = 0;
            const std::int64_t first =
                c.length > 0 ? std::max<std::int64_t>(last + 1 - c.length, 0) : 0;
            for (std::int64_t i = first; i <= last; ++i) {
                const double* batch = batches.data() + i * size;
                const double a = c.length > 0 ? 1 : std::pow(c.decay, static_cast<double>(last - i));
                weight += a * batch[k];
                total += a * batch[k] * batch[c.classes + k * c.cols + d];
                largest = std::max(largest, batch[size - 1]);
                sum += a * batch[size - 1];
                ones += a;
            }
            const double* found = averages.data() + end - size;
            const double norm = c.length > 0 ? largest : sum / ones;
            const double mean = weight > 0 ? total / weight : 0;
            if (!(std::abs(found[c.classes + k * c.cols + d] - mean) <= 1e-12) ||
                !(std::abs(found[size - 1] - norm) <= 1e-12 * norm))
                return false;
        }
    return true;
}

inline int check_averages() {
    int failures = 0;
    std::mt19937 generator(5);
    std::normal_distribution<double> normal;
    for (const AverageCase& c : {AverageCase{1, 1, 1, 0}, {3, 17, 2, 0}, {4, 8, 7, 0},
                                 {2, 33, 100, 0}, {3, 5, 0, 0.9}}) {
        const std::int64_t size = c.classes * (c.cols + 2) + 2, number = 50;
        std::vector<double> batches(static_cast<std::size_t>(number * size));
        for (double& each : batches) each = normal(generator);
        for (std::int64_t i = 0; i < number; ++i) {
            for (std::int64_t k = 0; k < c.classes; ++k)
                batches[i * size + k] = static_cast<double>(generator() % 3);
            for (int j : {1, 2}) batches[(i + 1) * size - j] = std::abs(normal(generator));
        }
        std::vector<double> averages(batches);
        Average average(c.classes, c.cols, c.length, c.decay, false);
        average.update(averages.data(), 20);
        Average resumed(c.classes, c.cols, c.length, c.decay, false);
        std::vector<double> state(static_cast<std::size_t>(average.state_size()));
        average.save(state.data());
        resumed.load(state.data());
        resumed.update(averages.data() + 20 * size, number - 20);
        for (std::int64_t last = 0; last < number; ++last)
            if (!average_agrees(c, batches, averages, last)) ++failures;
    }
    return failures;
}

// Compares the searches for neighbors with plain loops.

// Random rows; with `step` > 0 on a lattice, which gives many ties.
inline std::vector<double> random_rows(std::int64_t rows, std::int64_t dim, double step) {
    std::mt19937 generator(11);
    std::normal_distribution<double> normal;
    std::vector<double> data(static_cast<std::size_t>(rows * dim));
    for (double& each : data) each = step > 0 ? step * std::round(normal(generator)) : normal(generator);
    return data;
}

// The joint score of two rows.
inline double exact_joint(const double* a, const double* b, const std::int64_t* ends,
                          std::int64_t num_blocks, bool linf) {
    double score = 0;
    for (std::int64_t block = 0, first = 0; block < num_blocks; first = ends[block++])
        score = std::max(score, exact_score(a, b, first, ends[block], linf));
    return score;
}

inline std::vector<Neighbor> oracle(const PointSet& points, std::int64_t row, std::int64_t group) {
    std::vector<Neighbor> all;
    for (std::int64_t i = points.offsets[group]; i < points.offsets[group + 1]; ++i)
        if (i != row)
            all.push_back({exact_joint(points.data + row * points.dim, points.data + i * points.dim,
                                       points.ends, points.num_blocks, points.linf), i});
    std::sort(all.begin(), all.end());
    return all;
}

// Three groups, the last of one row.
inline int check_neighbors(std::int64_t rows, std::int64_t dim, double step, bool linf, int threads) {
    const std::vector<double> data = random_rows(rows, dim, step);
    const std::int64_t offsets[] = {0, rows / 3, rows - 1, rows}, ends[] = {(dim + 1) / 2, dim};
    const std::int64_t blocks = dim > 1 ? 2 : 1, k = 3;
    const PointSet points{data.data(), dim, dim > 1 ? ends : ends + 1, blocks, offsets, 3, linf};
    const auto size = static_cast<std::size_t>(rows);
    int wrong = 0;
    for (const bool tree : {false, true}) {
        std::vector<double> distances(size * k), radii(size), extents(size * blocks);
        std::vector<std::int64_t> ids(size * k), counts(size * blocks), ties(size), inside(size);
        NearestOut out{distances.data(), ids.data(), 0};
        const JointOut joint{radii.data(), counts.data(), extents.data(), ties.data()};
        const PointSet together{data.data(), dim, ends + 1, 1, offsets, 3, linf};
        (tree ? nearest_tree : nearest_direct)(points, k, out, threads);
        (tree ? joint_tree : joint_direct)(points, k, false, joint, threads);
        (tree ? count_tree : count_direct)(together, radii.data(), true, inside.data(), threads);
        for (std::int64_t group = 0; group < 3; ++group)
            for (std::int64_t row = offsets[group]; row < offsets[group + 1]; ++row) {
                const std::vector<Neighbor> expected = oracle(points, row, group);
                for (std::int64_t j = 0; j < k; ++j) {
                    const bool there = j < static_cast<std::int64_t>(expected.size());
                    wrong += ids[row * k + j] != (there ? expected[j].id : -1);
                }
                const std::vector<Neighbor> whole = oracle(together, row, group);
                const auto near = std::count_if(whole.begin(), whole.end(), [&](const Neighbor& each) {
                    return distance_of(each.score, linf) < radii[row];
                });
                wrong += inside[row] != near;
            }
    }
    if (wrong != 0) std::printf("neighbors of %lld x %lld: %d wrong\n", (long long)rows, (long long)dim, wrong);
    return wrong;
}

inline int check_all_neighbors() {
    int wrong = 0;
    for (const std::int64_t dim : {1, 2, 5, 40})
        for (const double step : {0.0, 1.0})
            for (const bool linf : {false, true})
                wrong += check_neighbors(dim == 5 ? 700 : 90, dim, step, linf, 1 + static_cast<int>(dim % 3));
    return wrong;
}

// The update in place against plain loops in double: rows left out, classes that are cut or absent.
// Then labels that another thread changes during a call, and tasks that throw: results may be wrong,
// but no memory access may be.

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

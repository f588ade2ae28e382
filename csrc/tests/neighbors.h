// Compares the searches for neighbors with plain loops.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "neighbors/exact.h"
#include "neighbors/search.h"

namespace ncfast {

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

}  // namespace ncfast

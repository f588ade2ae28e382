// The direct engine: compares pieces of the rows with all panels of their group.
#include <algorithm>
#include <atomic>
#include <limits>
#include <numeric>
#include <vector>

#include "core/pool.h"
#include "neighbors/space.h"

namespace ncfast {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

// Builds the space of each group and calls work(space, workers). Large groups follow each other and
// use all threads; small groups run side by side.
template <class Work>
void for_each_group(const PointSet& points, int threads, Work work) {
    constexpr std::int64_t kSmallGroup = 256;
    const auto run = [&](std::int64_t group, int workers) {
        const std::int64_t first = points.offsets[group], last = points.offsets[group + 1];
        if (first < last) work(Space(points, first, last, workers), workers);
    };
    std::vector<std::int64_t> small;
    for (std::int64_t group = 0; group < points.num_groups; ++group) {
        const std::int64_t rows = points.offsets[group + 1] - points.offsets[group];
        if (rows <= kSmallGroup) small.push_back(group);
        else run(group, threads);
    }
    const auto number = static_cast<std::int64_t>(small.size());
    if (number == 1) run(small[0], threads);
    else parallel_for(number, threads, [&](std::int64_t i) { run(small[i], 1); });
}

// So few queries that their coordinates fit in the cache with a piece of the points.
std::int64_t queries_per_task(std::int64_t dim) { return dim > 512 ? 32 : 64; }

int enough_threads(const PointSet& points, int threads) {
    return points.rows() * points.rows() * points.dim < (1 << 18) ? 1 : threads;
}

// Calls work(from, to) for pieces of the rows.
template <class Work>
void for_each_piece(const Space& space, int workers, Work work) {
    const std::int64_t piece = queries_per_task(space.points().dim), rows = space.rows();
    parallel_for((rows + piece - 1) / piece, workers, [&](std::int64_t task) {
        work(task * piece, std::min(rows, (task + 1) * piece));
    });
}

// The largest distance in a block between a row and its neighbors.
double block_extent(const Space& space, std::int64_t id, std::int64_t block,
                    const std::vector<Neighbor>& best) {
    const PointSet& points = space.points();
    const std::int64_t first = block == 0 ? 0 : points.ends[block - 1];
    double score = 0;
    for (const Neighbor& each : best)
        score = std::max(score, exact_score(space.row(id), space.row(each.id), first,
                                            points.ends[block], points.linf));
    return distance_of(score, points.linf);
}

std::vector<std::int64_t> sequence(std::int64_t from, std::int64_t to) {
    std::vector<std::int64_t> ids(static_cast<std::size_t>(to - from));
    std::iota(ids.begin(), ids.end(), from);
    return ids;
}

void write(const Space& space, const Nearest& found, std::int64_t k, double* distances,
           std::int64_t* ids) {
    const auto number = static_cast<std::int64_t>(found.best.size());
    for (std::int64_t j = 0; j < k; ++j) {
        distances[j] =
            j < number ? distance_of(found.best[j].score, space.points().linf) : kInf;
        ids[j] = j < number ? space.first() + found.best[j].id : -1;
    }
}

}  // namespace

void nearest_direct(const PointSet& points, std::int64_t k, NearestOut& out, int threads) {
    std::atomic<std::int64_t> repeated{0};
    const auto put = [&](const Space& space, std::int64_t from, const std::vector<Nearest>& found) {
        for (std::size_t i = 0; i < found.size(); ++i) {
            repeated += found[i].repeated;
            const std::int64_t at = (space.first() + from + static_cast<std::int64_t>(i)) * k;
            write(space, found[i], k, out.distances + at, out.ids + at);
        }
    };
    for_each_group(points, enough_threads(points, threads), [&](const Space& space, int workers) {
        if (should_seek_peers(space, k)) {
            put(space, 0, nearest_of_all(space, k, workers));
        } else {
            for_each_piece(space, workers, [&](std::int64_t from, std::int64_t to) {
                put(space, from, nearest_of(space, sequence(from, to), k));
            });
        }
    });
    out.repeated = repeated;
}

void nearest_of_rows(const PointSet& points, const std::int64_t* rows, std::int64_t number,
                     std::int64_t k, NearestOut& out, int threads) {
    std::atomic<std::int64_t> repeated{0};
    const Space space(points, 0, points.rows(), threads);
    const std::int64_t piece = queries_per_task(points.dim);
    parallel_for((number + piece - 1) / piece, threads, [&](std::int64_t task) {
        const std::int64_t from = task * piece, to = std::min(number, from + piece);
        const std::vector<Nearest> found = nearest_of(space, {rows + from, rows + to}, k);
        for (std::int64_t i = from; i < to; ++i) {
            repeated += found[i - from].repeated;
            write(space, found[i - from], k, out.distances + i * k, out.ids + i * k);
        }
    });
    out.repeated = repeated;
}

void scores_of(const PointSet& points, const std::int64_t* ids, std::int64_t per_row,
               double* scores, int threads) {
    constexpr std::int64_t kRows = 64;
    const std::int64_t rows = points.rows();
    parallel_for((rows + kRows - 1) / kRows, threads, [&](std::int64_t task) {
        const std::int64_t last = std::min(rows, (task + 1) * kRows) * per_row;
        for (std::int64_t at = task * kRows * per_row; at < last; ++at)
            scores[at] = exact_score(points.data + at / per_row * points.dim,
                                     points.data + ids[at] * points.dim, 0, points.dim,
                                     points.linf);
    });
}

void joint_direct(const PointSet& points, std::int64_t k, bool rectangle, const JointOut& out,
                  int threads) {
    const std::int64_t rows = points.rows(), blocks = points.num_blocks;
    const auto work = [&](const Space& space, std::int64_t from, std::int64_t to) {
        const std::vector<Nearest> found = nearest_of(space, sequence(from, to), k);
        std::vector<double> limits(static_cast<std::size_t>((to - from) * blocks));
        std::vector<std::int64_t> counts(static_cast<std::size_t>((to - from) * blocks));
        std::vector<CountQuery> queries;
        for (std::int64_t i = from; i < to; ++i) {
            const Nearest& each = found[static_cast<std::size_t>(i - from)];
            const std::int64_t row = space.first() + i;
            const bool all = static_cast<std::int64_t>(each.best.size()) == k;
            const double radius = all ? distance_of(each.best.back().score, points.linf) : kInf;
            double* limit = limits.data() + (i - from) * blocks;
            for (std::int64_t b = 0; b < blocks; ++b) {
                const double extent = all ? block_extent(space, i, b, each.best) : kInf;
                out.extents[b * rows + row] = extent;
                limit[b] = score_limit(rectangle ? extent : radius, !rectangle, points.linf);
            }
            out.radii[row] = radius;
            out.ties[row] = each.ties;
            queries.push_back({i, limit, score_limit(radius, false, points.linf),
                            counts.data() + (i - from) * blocks,
                            each.repeated ? out.ties + row : nullptr, each.repeated});
        }
        count_of(space, queries);
        for (std::int64_t i = from; i < to; ++i)
            for (std::int64_t b = 0; b < blocks; ++b)
                out.counts[b * rows + space.first() + i] = counts[(i - from) * blocks + b];
    };
    for_each_group(points, enough_threads(points, threads), [&](const Space& space, int workers) {
        for_each_piece(space, workers, [&](std::int64_t from, std::int64_t to) {
            work(space, from, to);
        });
    });
}

void count_direct(const PointSet& points, const double* radii, bool strict, std::int64_t* counts,
                  int threads) {
    const auto work = [&](const Space& space, std::int64_t from, std::int64_t to) {
        std::vector<double> limits(static_cast<std::size_t>(to - from));
        std::vector<CountQuery> queries;
        for (std::int64_t i = from; i < to; ++i) {
            double& limit = limits[static_cast<std::size_t>(i - from)];
            limit = score_limit(radii[space.first() + i], strict, points.linf);
            queries.push_back({i, &limit, -1, counts + space.first() + i, nullptr, false});
        }
        count_of(space, queries);
    };
    for_each_group(points, enough_threads(points, threads), [&](const Space& space, int workers) {
        for_each_piece(space, workers, [&](std::int64_t from, std::int64_t to) {
            work(space, from, to);
        });
    });
}

}  // namespace ncfast

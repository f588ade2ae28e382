// Searches and counts for some rows of a space, in float with an error bound, then in double.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "core/pool.h"
#include "neighbors/space.h"

namespace ncfast {
namespace {

// Room for candidates: k neighbors, the first points of a scan, points within the error bound.
std::int32_t room_for(std::int64_t k) { return static_cast<std::int32_t>(4 * k + 64); }

// Writes the scores in double between a row and its candidates.
void score(const Space& space, std::int64_t id, std::vector<Neighbor>& candidates) {
    const PointSet& points = space.points();
    const std::size_t number = candidates.size();
    for (std::size_t first = 0; first < number; first += kTogether) {
        const double* rows[kTogether];
        double scores[kTogether];
        for (std::size_t i = 0; i < kTogether; ++i)
            rows[i] = space.row(candidates[std::min(first + i, number - 1)].id);
        exact_joints(space.row(id), rows, points.ends, points.num_blocks, points.linf, scores);
        for (std::size_t i = 0; i < kTogether && first + i < number; ++i)
            candidates[first + i].score = scores[i];
    }
}

// Selects the k nearest candidates by their scores in double, and counts the ties.
void decide(const Space& space, const Seeker<float>& q, std::int64_t k, Nearest& out) {
    std::vector<Neighbor>& all = out.best;
    for (std::int32_t i = 0; i < q.held; ++i)
        if (q.scores[i] < q.threshold) all.push_back({0, q.ids[i]});
    score(space, q.self, all);
    std::sort(all.begin(), all.end());
    const auto wanted = static_cast<std::size_t>(k);
    out.ties = static_cast<std::int64_t>(all.size());
    if (all.size() <= wanted) return;
    const bool linf = space.points().linf;
    const double last = distance_of(all[wanted - 1].score, linf);
    std::size_t ties = wanted;
    while (ties < all.size() && distance_of(all[ties].score, linf) <= last) ++ties;
    out.ties = static_cast<std::int64_t>(ties);
    all.resize(wanted);
}

// Repeats the search in double for the queries ids[again[i]], whose candidates in float overflowed.
void search_in_double(const Space& space, const std::vector<std::int64_t>& ids,
                      const std::vector<std::size_t>& again, std::int64_t k,
                      Nearest* out) {
    const auto number = static_cast<std::int64_t>(again.size());
    const bool linf = space.points().linf;
    std::vector<double> best(static_cast<std::size_t>(number * k));
    std::vector<std::int32_t> found(static_cast<std::size_t>(number * k));
    std::vector<Seeker<double>> seekers;
    for (std::int64_t i = 0; i < number; ++i) {
        const std::int64_t id = ids[again[i]];
        Seeker<double> q{};
        q.at = space.row(id);
        q.threshold = std::numeric_limits<double>::infinity();
        q.self = static_cast<std::int32_t>(id);
        q.k = static_cast<std::int32_t>(k);
        q.best = best.data() + i * k;
        q.ids = found.data() + i * k;
        seekers.push_back(q);
    }
    space.for_each_piece<double>([&](const Panels<double>& panels) {
        space.kernels().exact_scan.seek[linf](panels, seekers.data(), number);
    });
    for (std::int64_t i = 0; i < number; ++i) {
        Nearest& result = out[again[i]];
        for (std::int32_t j = 0; j < seekers[i].found; ++j)
            result.best.push_back({seekers[i].best[j], seekers[i].ids[j]});
        result.repeated = true;
    }
}

// Queries in float for rows of the space, with memory for what they find.
class Seekers {
public:
    Seekers(std::int64_t number, std::int64_t k)
        : k_(k), room_(room_for(k)), best_(new float[static_cast<std::size_t>(number * k)]),
          scores_(new float[static_cast<std::size_t>(number * room_)]),
          ids_(new std::int32_t[static_cast<std::size_t>(number * room_)]) {
        all.reserve(static_cast<std::size_t>(number));
    }

    // Adds the query of a row whose coordinates are at `at`.
    void add(const Space& space, std::int64_t id, const float* at) {
        const auto place = static_cast<std::int64_t>(all.size());
        Seeker<float> q{};
        q.at = at;
        q.threshold = std::numeric_limits<float>::max();
        q.self = static_cast<std::int32_t>(id);
        q.k = static_cast<std::int32_t>(k_);
        q.room = room_;
        q.best = best_.get() + place * k_;
        q.scores = scores_.get() + place * room_;
        q.ids = ids_.get() + place * room_;
        q.margin = space.margin(id);
        all.push_back(q);
    }

    std::vector<Seeker<float>> all;

private:
    const std::int64_t k_;
    const std::int32_t room_;
    const std::unique_ptr<float[]> best_, scores_;  // not written here: few of their pages are used
    const std::unique_ptr<std::int32_t[]> ids_;
};

// Decides the queries of the rows ids by exact scores; repeats those that overflowed in double.
void decide_all(const Space& space, const Seeker<float>* seekers,
                const std::vector<std::int64_t>& ids, std::int64_t k, Nearest* out) {
    std::vector<std::size_t> again;
    for (std::size_t i = 0; i < ids.size(); ++i) {
        if (seekers[i].overflow) again.push_back(i);
        else decide(space, seekers[i], k, out[i]);
    }
    if (!again.empty()) search_in_double(space, ids, again, k, out);
}

}  // namespace

std::vector<Nearest> nearest_of(const Space& space, const std::vector<std::int64_t>& rows,
                                std::int64_t k) {
    const auto number = static_cast<std::int64_t>(rows.size());
    const std::int64_t dim = space.points().dim;
    std::vector<float> at(static_cast<std::size_t>(number * dim));
    Seekers seekers(number, k);
    for (std::int64_t i = 0; i < number; ++i) {
        space.copy_row(rows[i], at.data() + i * dim);
        seekers.add(space, rows[i], at.data() + i * dim);
    }
    space.for_each_piece<float>([&](const Panels<float>& panels) {
        space.kernels().scan.seek[space.points().linf](panels, seekers.all.data(), number);
    });
    std::vector<Nearest> out(static_cast<std::size_t>(number));
    decide_all(space, seekers.all.data(), rows, k, out.data());
    return out;
}

namespace {

constexpr std::int64_t kPeerCols = 32;  // with fewer, thresholds of points cost what this saves
constexpr std::int64_t kCandidateBytes = 64 << 20;
constexpr std::int64_t kLeastPanels = 4;   // in a block: handing over a task costs a few of them
constexpr std::int64_t kMostBlocks = 64;   // half as many threads find work
constexpr std::int64_t kDecidedRows = 64;  // per task

// Calls meet(a, b), a <= b, once for each two of `number` blocks, and for each block with itself. A
// block is in one call at a time: calls follow each other in rounds, as in a tournament (the method
// of the circle). The order of the calls of a block depends on nothing but their number.
template <class Meet>
void for_each_pair(std::int64_t number, int threads, Meet meet) {
    parallel_for(number, threads, [&](std::int64_t i) { meet(i, i); });
    const std::int64_t moving = number - 1;  // all but the last take turns around the circle
    for (std::int64_t round = 0; round < moving; ++round)
        parallel_for(number / 2, threads, [&](std::int64_t i) {
            const std::int64_t a = (round + i) % moving;
            const std::int64_t b = i == 0 ? moving : (round - i + moving) % moving;
            meet(std::min(a, b), std::max(a, b));
        });
}

// The number of blocks of panels: a power of two, a function of the shape alone.
std::int64_t blocks_of(std::int64_t panels) {
    std::int64_t number = 1;
    while (number < kMostBlocks && panels >= 2 * number * kLeastPanels) number *= 2;
    return number;
}

}  // namespace

bool should_seek_peers(const Space& space, std::int64_t k) {
    if (space.points().dim < kPeerCols) return false;
    const std::int64_t bytes = room_for(k) * 8 + k * 4 + std::int64_t{sizeof(Seeker<float>)};
    const std::int64_t row = space.points().dim * std::int64_t{sizeof(double)};
    return bytes <= row || space.rows() * bytes <= kCandidateBytes;
}

std::vector<Nearest> nearest_of_all(const Space& space, std::int64_t k, int threads) {
    const std::int64_t rows = space.rows(), panels = space.panels();
    const std::int64_t padded = panels * space.width();
    Seekers seekers(padded, k);
    for (std::int64_t i = 0; i < rows; ++i) seekers.add(space, i, nullptr);
    seekers.all.resize(static_cast<std::size_t>(padded));
    std::vector<float> thresholds(static_cast<std::size_t>(padded), -1);
    std::fill_n(thresholds.begin(), rows, std::numeric_limits<float>::max());
    for (std::int64_t i = rows; i < padded; ++i) seekers.all[i].threshold = -1;
    const Peers peers{seekers.all.data(), thresholds.data()};
    const auto seek = space.kernels().seek_peers[space.points().linf];
    const std::int64_t blocks = blocks_of(panels);
    for_each_pair(blocks, threads, [&](std::int64_t a, std::int64_t b) {
        const Panels<float> left = space.panels(panels * a / blocks, panels * (a + 1) / blocks);
        space.for_each_piece<float>(
            panels * b / blocks, panels * (b + 1) / blocks,
            [&](const Panels<float>& right) { seek(left, right, peers); });
    });
    std::vector<Nearest> out(static_cast<std::size_t>(rows));
    parallel_for((rows + kDecidedRows - 1) / kDecidedRows, threads, [&](std::int64_t task) {
        const std::int64_t first = task * kDecidedRows;
        std::vector<std::int64_t> ids(static_cast<std::size_t>(std::min(kDecidedRows, rows - first)));
        std::iota(ids.begin(), ids.end(), first);
        decide_all(space, peers.seekers + first, ids, k, out.data() + first);
    });
    return out;
}

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

// Rounds a limit down to float.
float downwards(double value) {
    if (!(value >= 0)) return -1;
    const double most = std::min(value * (1 - 0x1p-22), 3e38);
    return static_cast<float>(most);
}
// Rounds a limit up to float.
float upwards(double value) { return static_cast<float>(std::min(value * (1 + 0x1p-22), 3e38)); }

// Writes the largest score in float that is surely within a limit, and the largest that may be.
void float_limits(double limit, bool linf, double scale, const Margin& m, float& inside,
                  float& maybe) {
    if (limit < 0 || limit == kInf) {
        inside = maybe = -1;  // no score needs a comparison
        return;
    }
    const double radius = (linf ? limit : std::sqrt(limit)) * scale, blur = m.blur / 2;
    const double least = std::max(radius - blur, 0.0), most = radius + blur;
    const double low = linf ? least : least * least, high = linf ? most : most * most;
    inside = radius > blur ? downwards(low * (1 - m.relative) - m.absolute) : -1;
    maybe = upwards(high * (1 + m.relative) + m.absolute);
}

// Removes the row itself, which was counted at score 0 where `inside` admits it.
template <class C>
void leave_out_self(const Space& space, const CountQuery& query, const C* inside) {
    for (std::int64_t b = 0; b < space.points().num_blocks; ++b) {
        if (query.limits[b] == kInf) query.counts[b] = space.rows() - 1;
        else if (inside[b] >= 0) --query.counts[b];
    }
}

void count_in_double(const Space& space, const std::vector<const CountQuery*>& queries) {
    std::vector<Counter<double>> counters;
    for (const CountQuery* query : queries) {
        std::fill(query->counts, query->counts + space.points().num_blocks, 0);
        Counter<double> q{};
        q.at = space.row(query->id);
        q.inside = q.maybe = query->limits;
        q.counts = query->counts;
        q.together = query->joint;
        counters.push_back(q);
    }
    space.for_each_piece<double>([&](const Panels<double>& panels) {
        space.kernels().exact_scan.count[space.points().linf](
            panels, counters.data(), static_cast<std::int64_t>(counters.size()));
    });
    for (std::size_t i = 0; i < queries.size(); ++i) {
        leave_out_self(space, *queries[i], queries[i]->limits);
        if (queries[i]->ties != nullptr)
            *queries[i]->ties = queries[i]->joint == kInf ? space.rows() - 1
                                                    : counters[i].ties - (queries[i]->joint >= 0);
    }
}

// Decides in double the points that the scores in float left open.
void decide(const Space& space, const CountQuery& query, const Counter<float>& q) {
    const PointSet& points = space.points();
    for (std::int32_t i = 0; i < q.held; ++i) {
        if (q.ids[i] == query.id) continue;
        const std::int32_t block = q.blocks[i];
        const std::int64_t first = block == 0 ? 0 : points.ends[block - 1];
        const double score = exact_score(space.row(query.id), space.row(q.ids[i]), first,
                                         points.ends[block], points.linf);
        query.counts[block] += score <= query.limits[block];
    }
    leave_out_self(space, query, q.inside);
}

}  // namespace

void count_of(const Space& space, const std::vector<CountQuery>& queries) {
    const PointSet& points = space.points();
    const std::int64_t dim = points.dim, blocks = points.num_blocks;
    const std::int64_t room = 64 + space.rows() / 64;
    std::vector<const CountQuery*> in_double, in_float;
    for (const CountQuery& query : queries) (query.in_double ? in_double : in_float).push_back(&query);
    const auto number = static_cast<std::int64_t>(in_float.size());
    std::vector<float> at(static_cast<std::size_t>(number * dim));
    std::vector<float> limits(static_cast<std::size_t>(2 * number * blocks));
    std::vector<std::int32_t> held(static_cast<std::size_t>(2 * number * room));
    std::vector<Counter<float>> counters;
    for (std::int64_t i = 0; i < number; ++i) {
        const CountQuery& query = *in_float[i];
        const Margin margin = space.margin(query.id);
        float* inside = limits.data() + 2 * i * blocks;
        float* maybe = inside + blocks;
        for (std::int64_t b = 0; b < blocks; ++b)
            float_limits(query.limits[b], points.linf, space.scale(), margin, inside[b], maybe[b]);
        space.copy_row(query.id, at.data() + i * dim);
        std::fill(query.counts, query.counts + blocks, 0);
        Counter<float> q{};
        q.at = at.data() + i * dim;
        q.inside = inside;
        q.maybe = maybe;
        q.counts = query.counts;
        q.room = static_cast<std::int32_t>(room);
        q.ids = held.data() + 2 * i * room;
        q.blocks = q.ids + room;
        counters.push_back(q);
    }
    space.for_each_piece<float>([&](const Panels<float>& panels) {
        space.kernels().scan.count[points.linf](panels, counters.data(), number);
    });
    for (std::int64_t i = 0; i < number; ++i) {
        if (counters[i].overflow) in_double.push_back(in_float[i]);
        else decide(space, *in_float[i], counters[i]);
    }
    if (!in_double.empty()) count_in_double(space, in_double);
}

}  // namespace ncfast

// Searches and counts for some rows of a space, in float with an error bound, then in double.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "neighbors/space.h"

namespace ncfast {
namespace {

// Room for candidates: k neighbors, the first points of a scan, points within the error bound.
std::int32_t room_for(std::int64_t k) { return static_cast<std::int32_t>(4 * k + 64); }

double score_between(const Space& space, std::int64_t a, std::int64_t b) {
    const PointSet& points = space.points();
    return exact_joint(space.row(a), space.row(b), points.ends, points.num_blocks, points.linf);
}

// Selects the k nearest candidates by their scores in double, and counts the ties.
void decide(const Space& space, const Seeker<float>& q, std::int64_t k, Nearest& out) {
    std::vector<Neighbor>& all = out.best;
    for (std::int32_t i = 0; i < q.held; ++i)
        if (q.scores[i] < q.threshold)
            all.push_back({score_between(space, q.self, q.ids[i]), q.ids[i]});
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
                      std::vector<Nearest>& out) {
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

}  // namespace

std::vector<Nearest> nearest_of(const Space& space, const std::vector<std::int64_t>& rows,
                                std::int64_t k) {
    const auto number = static_cast<std::int64_t>(rows.size());
    const std::int64_t dim = space.points().dim, room = room_for(k);
    const bool linf = space.points().linf;
    std::vector<float> at(static_cast<std::size_t>(number * dim));
    std::vector<float> best(static_cast<std::size_t>(number * k));
    std::vector<float> scores(static_cast<std::size_t>(number * room));
    std::vector<std::int32_t> ids(static_cast<std::size_t>(number * room));
    std::vector<Seeker<float>> seekers;
    for (std::int64_t i = 0; i < number; ++i) {
        space.copy_row(rows[i], at.data() + i * dim);
        Seeker<float> q{};
        q.at = at.data() + i * dim;
        q.threshold = std::numeric_limits<float>::max();
        q.self = static_cast<std::int32_t>(rows[i]);
        q.k = static_cast<std::int32_t>(k);
        q.room = static_cast<std::int32_t>(room);
        q.best = best.data() + i * k;
        q.scores = scores.data() + i * room;
        q.ids = ids.data() + i * room;
        q.margin = space.margin(rows[i]);
        seekers.push_back(q);
    }
    space.for_each_piece<float>([&](const Panels<float>& panels) {
        space.kernels().scan.seek[linf](panels, seekers.data(), number);
    });
    std::vector<Nearest> out(static_cast<std::size_t>(number));
    std::vector<std::size_t> again;
    for (std::int64_t i = 0; i < number; ++i) {
        if (seekers[i].overflow) again.push_back(static_cast<std::size_t>(i));
        else decide(space, seekers[i], k, out[i]);
    }
    if (!again.empty()) search_in_double(space, rows, again, k, out);
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

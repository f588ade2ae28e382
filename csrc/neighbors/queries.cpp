// A piece of the rows of a space, searched in float with a margin, then decided in double.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "neighbors/space.h"

namespace ncfast {

namespace {

// Room for candidates: k neighbours, those first seen, and what the margin of float leaves open.
std::int32_t room_for(std::int64_t k) { return static_cast<std::int32_t>(4 * k + 64); }

double score_between(const Space& space, std::int64_t a, std::int64_t b) {
    const PointSet& points = space.points();
    return exact_joint(space.row(a), space.row(b), points.ends, points.num_blocks, points.linf);
}

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

// Every lane in double: exact by itself, and the way out where float cannot tell points apart.
// Searches for the queries ids[again[i]].
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
        result.second = true;
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

float downwards(double value) {
    if (!(value >= 0)) return -1;
    const double most = std::min(value * (1 - 0x1p-22), 3e38);
    return static_cast<float>(most);
}
float upwards(double value) { return static_cast<float>(std::min(value * (1 + 0x1p-22), 3e38)); }

// The scores in float that are surely within a limit, and those beyond which none is.
void float_limits(double limit, bool linf, double scale, const Margin& m, float& inside,
                  float& maybe) {
    if (limit < 0 || limit == kInf) {
        inside = maybe = -1;  // nothing to look at
        return;
    }
    const double radius = (linf ? limit : std::sqrt(limit)) * scale, blur = m.blur / 2;
    const double least = std::max(radius - blur, 0.0), most = radius + blur;
    const double low = linf ? least : least * least, high = linf ? most : most * most;
    inside = radius > blur ? downwards(low * (1 - m.relative) - m.absolute) : -1;
    maybe = upwards(high * (1 + m.relative) + m.absolute);
}

// The row itself, at score zero, was counted where `inside` admits it.
template <class C>
void leave_out_self(const Space& space, const Ask& ask, const C* inside) {
    for (std::int64_t b = 0; b < space.points().num_blocks; ++b) {
        if (ask.limits[b] == kInf) ask.counts[b] = space.rows() - 1;
        else if (inside[b] >= 0) --ask.counts[b];
    }
}

void count_in_double(const Space& space, const std::vector<const Ask*>& asks) {
    std::vector<Counter<double>> counters;
    for (const Ask* ask : asks) {
        std::fill(ask->counts, ask->counts + space.points().num_blocks, 0);
        Counter<double> q{};
        q.at = space.row(ask->id);
        q.inside = q.maybe = ask->limits;
        q.counts = ask->counts;
        q.together = ask->joint;
        counters.push_back(q);
    }
    space.for_each_piece<double>([&](const Panels<double>& panels) {
        space.kernels().exact_scan.count[space.points().linf](
            panels, counters.data(), static_cast<std::int64_t>(counters.size()));
    });
    for (std::size_t i = 0; i < asks.size(); ++i) {
        leave_out_self(space, *asks[i], asks[i]->limits);
        if (asks[i]->ties != nullptr)
            *asks[i]->ties = asks[i]->joint == kInf ? space.rows() - 1
                                                    : counters[i].ties - (asks[i]->joint >= 0);
    }
}

void decide(const Space& space, const Ask& ask, const Counter<float>& q) {
    const PointSet& points = space.points();
    for (std::int32_t i = 0; i < q.held; ++i) {
        if (q.ids[i] == ask.id) continue;
        const std::int32_t block = q.blocks[i];
        const std::int64_t first = block == 0 ? 0 : points.ends[block - 1];
        const double score = exact_score(space.row(ask.id), space.row(q.ids[i]), first,
                                         points.ends[block], points.linf);
        ask.counts[block] += score <= ask.limits[block];
    }
    leave_out_self(space, ask, q.inside);
}

}  // namespace

void count_of(const Space& space, const std::vector<Ask>& asks) {
    const PointSet& points = space.points();
    const std::int64_t dim = points.dim, blocks = points.num_blocks;
    const std::int64_t room = 64 + space.rows() / 64;
    std::vector<const Ask*> wide, narrow;
    for (const Ask& ask : asks) (ask.wide ? wide : narrow).push_back(&ask);
    const auto number = static_cast<std::int64_t>(narrow.size());
    std::vector<float> at(static_cast<std::size_t>(number * dim));
    std::vector<float> limits(static_cast<std::size_t>(2 * number * blocks));
    std::vector<std::int32_t> held(static_cast<std::size_t>(2 * number * room));
    std::vector<Counter<float>> counters;
    for (std::int64_t i = 0; i < number; ++i) {
        const Ask& ask = *narrow[i];
        const Margin margin = space.margin(ask.id);
        float* inside = limits.data() + 2 * i * blocks;
        float* maybe = inside + blocks;
        for (std::int64_t b = 0; b < blocks; ++b)
            float_limits(ask.limits[b], points.linf, space.scale(), margin, inside[b], maybe[b]);
        space.copy_row(ask.id, at.data() + i * dim);
        std::fill(ask.counts, ask.counts + blocks, 0);
        Counter<float> q{};
        q.at = at.data() + i * dim;
        q.inside = inside;
        q.maybe = maybe;
        q.counts = ask.counts;
        q.room = static_cast<std::int32_t>(room);
        q.ids = held.data() + 2 * i * room;
        q.blocks = q.ids + room;
        counters.push_back(q);
    }
    space.for_each_piece<float>([&](const Panels<float>& panels) {
        space.kernels().scan.count[points.linf](panels, counters.data(), number);
    });
    for (std::int64_t i = 0; i < number; ++i) {
        if (counters[i].overflow) wide.push_back(narrow[i]);
        else decide(space, *narrow[i], counters[i]);
    }
    if (!wide.empty()) count_in_double(space, wide);
}

}  // namespace ncfast

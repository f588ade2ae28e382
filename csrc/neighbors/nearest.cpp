#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "neighbors/queries.h"

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
        space.kernels().exact_sweep.seek[linf](panels, seekers.data(), number);
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
        space.kernels().sweep.seek[linf](panels, seekers.data(), number);
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

}  // namespace ncfast

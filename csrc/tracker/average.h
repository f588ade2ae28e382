// Running averages of batches: packed moments in, packed averages out, in the same memory. Their
// definition and the reference are in ncfast/tracking/averaging.py.
//
// Sums over batches are kept in two parts, from which nothing is ever subtracted: what came in since
// the last turn, and the past before it. A window turns when each of its rows has been overwritten
// once: every row then takes up the sum of the younger ones, so that row p + 1 is what the window
// still holds of the past when row p is overwritten. An exponential average turns every few batches,
// for accuracy alone: its past is rounded once a turn.
#pragma once

#include <cstdint>
#include <vector>

namespace ncfast {

class Average {
public:
    // Over the last `length` batches; over all, weighted by decay^age, where that is 0. Counts come
    // as the bits of int64, or as doubles; they leave as doubles.
    Average(std::int64_t classes, std::int64_t cols, std::int64_t length, double decay,
            bool integer_counts);

    // Overwrites each of `number` adjacent rows by the average that ends with it.
    void update(double* states, std::int64_t number);

private:
    void add(double* state);
    void split(const double* batch, double* row) const;
    void fold(const double* past, const double* row);
    void fold_means(const double* past, double* row, double* means);
    void pack(double* out) const;
    void turn();

    bool window() const { return length_ > 0; }
    double* row(std::int64_t i) { return rows_.data() + i * width_; }

    const std::int64_t k_, d_, length_, size_;
    const std::int64_t squares_, freedom_, ones_, norms_, largest_, totals_;  // first columns
    const std::int64_t width_;
    const double keep_;
    const bool integer_counts_;
    std::vector<double> rows_;     // the window and a row of zeros; or the last batch and the past
    std::vector<double> running_;  // since the last turn
    std::vector<double> sums_;     // of both parts, the columns before totals_
    const std::vector<double> zeros_;  // instead of a batch that is not finite
    std::int64_t position_ = 0;        // batches since the last turn
    double share_ = 1;                 // weight of the past
};

}  // namespace ncfast

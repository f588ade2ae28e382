// Running averages of batches: replaces packed moments by packed averages, in place. The definition
// and the reference are in ncfast/tracking/averaging.py.
//
// A sum over batches has two parts, from which nothing is ever subtracted: the batches since the
// last turn, and the past before it. A window turns when each of its rows has been overwritten
// once. Each row then becomes the sum of itself and the younger rows, so that row p + 1 is the past
// that the window still contains when row p is overwritten. An exponential average turns every few
// batches, for accuracy alone: its past is rounded once per turn.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "core/isa.h"

namespace ncfast {

// Averages over the last `length` batches, or over all batches with the weight decay^age if
// `length` is 0.
class Average {
public:
    // Counts are read as the bits of int64 if `integer_counts`, else as double; they are written as
    // double.
    Average(std::int64_t classes, std::int64_t cols, std::int64_t length, double decay,
            bool integer_counts);

    // Replaces each of `number` adjacent rows of packed moments by the average that ends with it.
    void update(double* states, std::int64_t number);

    // The complete state as doubles: an average that loads them continues with the same bits.
    std::int64_t state_size() const { return 2 + static_cast<std::int64_t>(rows_.size()) + width_; }
    void save(double* state) const;
    // Throws invalid_argument, and changes nothing, if no average of this kind can have that state.
    void load(const double* state);

private:
    static constexpr std::int64_t kPiece = 16;  // batches per turn of an exponential average
    static constexpr double kScale = 0x1p60, kForgotten = 1 / kScale;  // see the reference
    static constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

    static double sum(const double* values, std::int64_t count) {
        double total = 0;
        for (std::int64_t i = 0; i < count; ++i) total += values[i];
        return total;
    }

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
    std::vector<double> rows_;     // the window and a row of zeros, or the last batch and the past
    std::vector<double> running_;  // sums since the last turn
    std::vector<double> sums_;     // sums of both parts, for the columns before totals_
    const std::vector<double> zeros_;  // replaces a batch that is not finite
    std::int64_t position_ = 0;        // batches since the last turn
    double share_ = 1;                 // weight of the past
};

inline Average::Average(std::int64_t classes, std::int64_t cols, std::int64_t length, double decay,
                        bool integer_counts)
    : k_(classes), d_(cols), length_(length), size_(classes * (cols + 2) + 2), squares_(classes),
      freedom_(2 * classes), ones_(3 * classes), norms_(ones_ + 1), largest_(ones_ + 2),
      totals_(ones_ + 3), width_(totals_ + classes * cols), keep_(length > 0 ? 1 : decay),
      integer_counts_(integer_counts),
      rows_(static_cast<std::size_t>((std::max<std::int64_t>(length, 1) + 1) * width_)),
      running_(static_cast<std::size_t>(width_)), sums_(static_cast<std::size_t>(totals_)),
      zeros_(static_cast<std::size_t>(size_)) {}

inline void Average::update(double* states, std::int64_t number) {
    for (std::int64_t i = 0; i < number; ++i) add(states + i * size_);
}

inline void Average::save(double* state) const {
    *state++ = static_cast<double>(position_);
    *state++ = share_;
    state = std::copy(rows_.begin(), rows_.end(), state);
    std::copy(running_.begin(), running_.end(), state);
}

inline void Average::load(const double* state) {
    const double position = state[0], share = state[1];
    const auto end = static_cast<double>(window() ? length_ : kPiece);
    // the position is an index into memory
    if (!(position >= 0 && position < end && position == std::floor(position)) ||
        !(share >= 0 && share <= 1)) {
        throw std::invalid_argument("the state of the average is damaged");
    }
    position_ = static_cast<std::int64_t>(position);
    share_ = share;
    const double* rows = state + 2;
    std::copy(rows, rows + rows_.size(), rows_.begin());
    std::copy(rows + rows_.size(), rows + rows_.size() + running_.size(), running_.begin());
}

inline void Average::add(double* state) {
    const bool usable = std::isfinite(state[size_ - 2]) && std::isfinite(state[size_ - 1]);
    if (!usable) std::copy(zeros_.begin(), zeros_.end(), state);
    double* now = row(window() ? position_ : 0);
    const double* past = row(window() ? position_ + 1 : 1);
    share_ *= keep_;
    split(state, now);
    now[ones_] = usable ? 1 : 0;
    fold(past, now);
    fold_means(past, now, state + k_);
    pack(state);
    if (!usable) std::fill(state, state + size_, kNan);
    if (++position_ == (window() ? length_ : kPiece)) turn();
}

// Writes the columns before totals_: the quantities of a batch whose sums over batches give the
// average.
inline void Average::split(const double* batch, double* row) const {
    const double* within = batch + k_ + k_ * d_;
    for (std::int64_t c = 0; c < k_; ++c) {
        std::int64_t count;
        std::memcpy(&count, batch + c, sizeof count);
        row[c] = integer_counts_ ? static_cast<double>(count) : batch[c];
        row[squares_ + c] = within[c];
        row[freedom_ + c] = std::max(row[c] - 1, 0.0);
    }
    row[norms_] = within[k_];
    row[largest_] = within[k_ + 1];
}

inline void Average::fold(const double* past, const double* row) {
    const double largest = std::max(running_[largest_], row[largest_]);
    for (std::int64_t i = 0; i < totals_; ++i) {
        running_[i] = keep_ * running_[i] + row[i];
        sums_[i] = share_ * past[i] + running_[i];
    }
    if (!window()) return;
    running_[largest_] = largest;
    sums_[largest_] = std::max(largest, past[largest_]);
}

inline void Average::fold_means(const double* past, double* row, double* means) {
    const auto add = kernels().average_mean;
    for (std::int64_t c = 0, at = totals_; c < k_; ++c, at += d_, means += d_) {
        const double scale = sums_[c] > kForgotten ? 1 / sums_[c] : 1;
        add({d_, row[c], keep_, share_, scale}, past + at, row + at, running_.data() + at, means);
    }
}

inline void Average::pack(double* out) const {
    const double *squares = sums_.data() + squares_, *freedom = sums_.data() + freedom_;
    const double pooled = sum(squares, k_) / sum(freedom, k_);
    double* within = out + k_ + k_ * d_;
    for (std::int64_t c = 0; c < k_; ++c) {
        const double variance = freedom[c] > kForgotten ? squares[c] / freedom[c] : pooled;
        const bool present = sums_[c] > kForgotten;
        out[c] = present ? kScale * sums_[c] : 0;
        within[c] = present ? out[c] * variance : 0;
    }
    within[k_] = kScale * sums_[norms_];
    within[k_ + 1] = window() ? sums_[largest_] : sums_[largest_] / sums_[ones_];
}

inline void Average::turn() {
    if (window()) {
        for (std::int64_t i = length_ - 2; i >= 0; --i) {
            double* older = row(i);
            const double* younger = row(i + 1);
            const double largest = std::max(older[largest_], younger[largest_]);
            for (std::int64_t j = 0; j < width_; ++j) older[j] += younger[j];
            older[largest_] = largest;
        }
    } else {
        double* past = row(1);
        for (std::int64_t j = 0; j < width_; ++j) past[j] = share_ * past[j] + running_[j];
    }
    std::fill(running_.begin(), running_.end(), 0.0);
    position_ = 0;
    share_ = 1;
}

}  // namespace ncfast

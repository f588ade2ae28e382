// The kernel of the gradient through the class moments: each row of features times a factor, plus a
// row that its class shares. A row is read from memory once and written once.
//
// Features of 32 and 64 bits are computed in double. A float has bits to spare for those of 16 bits,
// and takes half the time.
#pragma once

#include <type_traits>

#include "core/isa.h"
#include "core/simd.h"
#include "moments/segment.h"

namespace ncfast {
namespace NCFAST_ISA {

// ---- conversion to the stored types, rounded to nearest even ----

inline __attribute__((always_inline)) HalfF to_float(VecD value) {
#if NCFAST_VECTOR_BYTES == 64
    return (HalfF)_mm512_maskz_cvtpd_ps(0xff, (__m512d)value);
#elif NCFAST_VECTOR_BYTES == 32
    return (HalfF)_mm256_cvtpd_ps((__m256d)value);
#else
    return __builtin_convertvector(value, HalfF);
#endif
}

inline __attribute__((always_inline)) VecH narrow(VecU bits) {
#if NCFAST_VECTOR_BYTES == 64
    return (VecH)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)bits);
#else
    return __builtin_convertvector(bits, VecH);
#endif
}

inline __attribute__((always_inline)) VecH rounded(VecF value, Bf16) {
    const VecU bits = (VecU)value;
    const VecU even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const VecU nan = (VecU)((bits & 0x7fffffffu) > 0x7f800000u);
    return narrow((even & ~nan) | (nan & 0x7fc0u));
}

#if NCFAST_VECTOR_BYTES == 64
inline __attribute__((always_inline)) VecH rounded(VecF value, F16) {
    return (VecH)_mm512_maskz_cvtps_ph(0xffff, (__m512)value, _MM_FROUND_TO_NEAREST_INT);
}
#elif NCFAST_VECTOR_BYTES == 32
inline __attribute__((always_inline)) VecH rounded(VecF value, F16) {
    return (VecH)_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT);
}
#else
inline VecH rounded(VecF value, F16) {
    VecH out;
    for (int i = 0; i < kLanes<float>; ++i) {
        const std::uint32_t bits = ((VecU)value)[i];
        const std::uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
        std::uint32_t half = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
        if (magnitude > 0x7f800000u) half = 0x7e00;        // NaN
        else if (magnitude >= 0x477ff000u) half = 0x7c00;  // infinite
        if (magnitude < 0x38800000u) {  // subnormal: the addition rounds at the last bit of a half
            float shifted;
            std::memcpy(&shifted, &magnitude, sizeof(shifted));
            shifted += 0.5f;
            std::memcpy(&half, &shifted, sizeof(half));
            half -= 0x3f000000u;
        }
        out[i] = static_cast<std::uint16_t>(sign | half);
    }
    return out;
}
#endif

inline __attribute__((always_inline)) VecF to_float(VecD low, VecD high) {
#if NCFAST_VECTOR_BYTES == 64
    return (VecF)_mm512_insertf32x8(_mm512_castps256_ps512((__m256)to_float(low)),
                                    (__m256)to_float(high), 1);
#else
    const HalfF halves[2] = {to_float(low), to_float(high)};
    VecF whole;
    std::memcpy(&whole, halves, sizeof(whole));
    return whole;
#endif
}

// The vector of stored results that two vectors of computed ones fill.
template <class T>
inline __attribute__((always_inline)) VecU packed(VecF low, VecF high, T type) {
#if NCFAST_VECTOR_BYTES == 64
    const __m256i halves[2] = {(__m256i)rounded(low, type), (__m256i)rounded(high, type)};
    return (VecU)_mm512_inserti64x4(_mm512_castsi256_si512(halves[0]), halves[1], 1);
#elif NCFAST_VECTOR_BYTES == 32
    const __m128i halves[2] = {(__m128i)rounded(low, type), (__m128i)rounded(high, type)};
    return (VecU)_mm256_insertf128_si256(_mm256_castsi128_si256(halves[0]), halves[1], 1);
#else
    const VecH halves[2] = {rounded(low, type), rounded(high, type)};
    return load_bits<VecU>(halves);
#endif
}
inline __attribute__((always_inline)) VecU packed(VecD low, VecD high, float) {
    return (VecU)to_float(low, high);
}

#if NCFAST_VECTOR_BYTES == 64
inline __attribute__((always_inline)) __m512i rounded_in_place(VecF value) {
    const VecU bits = (VecU)value;
    const VecU even = bits + 0x7fffu + ((bits >> 16) & 1u);
    const __mmask16 nan = _mm512_cmp_ps_mask((__m512)value, (__m512)value, _CMP_UNORD_Q);
    return _mm512_mask_set1_epi32((__m512i)even, nan, 0x7fc00000);
}
inline __attribute__((always_inline)) VecU packed(VecF low, VecF high, Bf16) {
    alignas(64) static constexpr std::uint16_t kUpper[32] = {  // halves of all numbers
        1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
        33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    return (VecU)_mm512_permutex2var_epi16(rounded_in_place(low), _mm512_load_si512(kUpper),
                                           rounded_in_place(high));
}
#endif

// Writes a vector past the caches: its line would otherwise be read before it is written.
inline __attribute__((always_inline)) void stream(void* to, VecU value) {
#if NCFAST_VECTOR_BYTES == 64
    _mm512_stream_si512(static_cast<__m512i*>(to), (__m512i)value);
#elif NCFAST_VECTOR_BYTES == 32
    _mm256_stream_si256(static_cast<__m256i*>(to), (__m256i)value);
#elif defined(__x86_64__)
    _mm_stream_si128(static_cast<__m128i*>(to), (__m128i)value);
#else
    std::memcpy(to, &value, sizeof(value));
#endif
}

// Copies a finished row to memory that is not read soon. Whole cache lines go past the caches: they
// would otherwise be read before they are written.
inline void copy_past_caches(const char* from, std::size_t bytes, char* to) {
#if defined(__x86_64__)
    const std::size_t head = (64 - reinterpret_cast<std::uintptr_t>(to) % 64) % 64;
    if (bytes >= head + 64) {
        std::memcpy(to, from, head);
        std::size_t done = head;
        for (; done + 64 <= bytes; done += 64) {
#if NCFAST_VECTOR_BYTES == 64
            _mm512_stream_si512(reinterpret_cast<__m512i*>(to + done),
                                _mm512_loadu_si512(from + done));
#else
            for (std::size_t part = 0; part < 64; part += 16)
                _mm_stream_si128(
                    reinterpret_cast<__m128i*>(to + done + part),
                    _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + done + part)));
#endif
        }
        std::memcpy(to + done, from + done, bytes - done);
        return;
    }
#endif
    std::memcpy(to, from, bytes);
}

inline void finish_copies() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

// ---- norms ----

template <class T>
inline double exact_norm(const T* x, std::int64_t cols) {
    constexpr int kParts = Doubles<T>::kParts, kStep = kParts * kLanes<double>;
    constexpr int kUnrolled = 4;  // sums that do not wait for each other
    VecD total[kUnrolled] = {};
    VecD values[kParts];
    std::int64_t d = 0;
    for (; d + kUnrolled * kStep <= cols; d += kUnrolled * kStep)
        for (int u = 0; u < kUnrolled; ++u) {
            Doubles<T>::load_from(x + d + u * kStep, values);
            for (const VecD& value : values) total[u] += value * value;
        }
    for (; d < cols; d += kStep) {
        if (d + kStep <= cols) Doubles<T>::load_from(x + d, values);
        else Doubles<T>::load_part_from(x + d, static_cast<int>(cols - d), values);
        for (const VecD& value : values) total[0] += value * value;
    }
    return __builtin_sqrt(sum_lanes((total[0] + total[1]) + (total[2] + total[3])));
}

// For features of 16 bits: at most 32 squares enter a lane of float before it is added in double.
template <class T>
inline double norm_by_floats(const T* x, std::int64_t cols) {
    constexpr int kStep = kLanes<float>, kUnrolled = 4;
    VecD total = {};
    for (std::int64_t d = 0; d < cols;) {
        const std::int64_t end = least(cols, d + kStrip<T>);
        VecF part[kUnrolled] = {};
        for (; d + kUnrolled * kStep <= end; d += kUnrolled * kStep)
            for (int u = 0; u < kUnrolled; ++u) {
                const VecF value = load(x + d + u * kStep);
                part[u] += value * value;
            }
        for (; d < end; d += kStep) {
            const VecF value = load_most(x + d, end - d);
            part[0] += value * value;
        }
        total += to_double_lanes((part[0] + part[1]) + (part[2] + part[3]));
    }
    const double norm_ss = sum_lanes(total);
    if (!in_range<T>(norm_ss, static_cast<double>(cols))) return exact_norm(x, cols);
    return __builtin_sqrt(norm_ss);
}

template <class T>
constexpr bool kHalf = sizeof(T) == 2;

// The norm of a row; notes it if it is the largest so far, which only norms in double decide.
template <class T>
inline double norm_of_row(const RowGradients& of, const T* x, std::int64_t row,
                          LargestRow& largest) {
    const std::int64_t cols = of.feats.cols;
    double norm;
    if constexpr (kHalf<T>) {
        constexpr double kNearly = 1 - 1e-5;
        norm = norm_by_floats(x, cols);
        if (of.seeks_largest && norm >= largest.norm * kNearly) norm = exact_norm(x, cols);
    } else {
        norm = exact_norm(x, cols);
    }
    if (norm > largest.norm || (norm == largest.norm && row < largest.row)) largest = {norm, row};
    return norm;
}

// ---- rows ----

template <class T>
using GradientCompute = std::conditional_t<kHalf<T>, float, double>;

// Reads a vector of numbers to compute with, or the `left` last ones of a row.
template <class T>
inline __attribute__((always_inline)) Vec<Compute<T>> read(const T* x, std::int64_t left) {
    return load_most(x, left < 0 ? 0 : left);
}
inline __attribute__((always_inline)) VecD read(const float* x, std::int64_t left) {
    VecD value;
    if (left >= kLanes<double>) Doubles<float>::load_from(x, &value);
    else Doubles<float>::load_part_from(x, left < 0 ? 0 : static_cast<int>(left), &value);
    return value;
}

// The gradients of R rows of a class: x * factor + shared. Pulled says that norms have a gradient.
template <class C, int R, bool Pulled>
struct Rule {
    struct Terms {
        VecD shared;
    };
    const double* shared;
    double factor[R];

    Rule(const RowGradients& of, std::int64_t label, const double* pulls)
        : shared(of.shared + label * of.feats.cols) {
        for (int r = 0; r < R; ++r) factor[r] = of.slopes[label] + pulls[r];
    }
    inline __attribute__((always_inline)) Terms at(std::int64_t d, std::int64_t left) const {
        return {read(shared + d, left)};
    }
    inline __attribute__((always_inline)) VecD of(int r, VecD x, const Terms& terms) const {
        return x * factor[r] + terms.shared;
    }
};
// In float: (x - centre) * slope + rest + x * pull. Only the difference cancels, and it is exact then.
template <int R, bool Pulled>
struct Rule<float, R, Pulled> {
    struct Terms {
        VecF centre, rest;
    };
    const float* centre;
    const float* rest;
    float slope, pull[R];

    Rule(const RowGradients& of, std::int64_t label, const double* pulls)
        : centre(of.centres + label * of.feats.cols), rest(of.rests + label * of.feats.cols),
          slope(static_cast<float>(of.slopes[label])) {
        for (int r = 0; r < R; ++r) pull[r] = static_cast<float>(pulls[r]);
    }
    inline __attribute__((always_inline)) Terms at(std::int64_t d, std::int64_t left) const {
        const std::int64_t rest_left = left < 0 ? 0 : left;
        return {load_most(centre + d, rest_left), load_most(rest + d, rest_left)};
    }
    inline __attribute__((always_inline)) VecF of(int r, VecF x, const Terms& terms) const {
        if constexpr (Pulled) return (x - terms.centre) * slope + (x * pull[r] + terms.rest);
        else return (x - terms.centre) * slope + terms.rest;
    }
};

// Writes the gradients of R rows of one class: straight past the caches, or to memory with room for
// whole vectors. The lines of the rows ahead are prefetched meanwhile.
template <class T, int R, bool Pulled, bool PastCaches>
inline void write_tile(const RowGradients& of, std::int64_t label, const T* const* rows,
                       const T* const* ahead, const double* pulls, T* const* out) {
    using C = GradientCompute<T>;
    constexpr int kParts = static_cast<int>(sizeof(C) / sizeof(T)), kStep = kParts * kLanes<C>;
    const Rule<C, R, Pulled> rule(of, label, pulls);
    const auto step = [&](std::int64_t d, std::int64_t left) __attribute__((always_inline)) {
        typename Rule<C, R, Pulled>::Terms terms[kParts];
        for (int p = 0; p < kParts; ++p) terms[p] = rule.at(d + p * kLanes<C>, left - p * kLanes<C>);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const auto part = [&](int p) __attribute__((always_inline)) {
                const std::int64_t at = p * kLanes<C>;
                return rule.of(r, read(rows[r] + d + at, left - at), terms[p]);
            };
            VecU found;
            if constexpr (kParts == 1) found = (VecU)part(0);
            else found = packed(part(0), part(1), T{});
            if constexpr (PastCaches) stream(out[r] + d, found);
            else store(out[r] + d, found);
        }
    };
    const std::int64_t cols = of.feats.cols;
    std::int64_t d = 0;
    for (; d + kStep <= cols; d += kStep) {
        for (int r = 0; r < R; ++r) prefetch(ahead[r] + d);
        step(d, kStep);
    }
    if (d < cols) step(d, cols - d);
}

// A row of 16-bit features in double, where a factor leaves the range of float.
template <class T>
__attribute__((noinline)) void write_wide(const RowGradients& of, std::int64_t label, const T* x,
                                          double pull, T* out) {
    const std::int64_t cols = of.feats.cols;
    const double slope = of.slopes[label];
    for (std::int64_t d = 0; d < cols; d += 2 * kLanes<float>) {
        VecF found[2];
        for (int p = 0; p < 2; ++p) {
            const std::int64_t at = d + p * kLanes<float>, left = cols - at < 0 ? 0 : cols - at;
            VecD value[2], centre[2], rest[2];
            widen_halves(load_most(x + at, left), value[0], value[1]);
            widen_halves(load_most(of.centres + label * cols + at, left), centre[0], centre[1]);
            widen_halves(load_most(of.rests + label * cols + at, left), rest[0], rest[1]);
            for (int i = 0; i < 2; ++i)
                value[i] = (value[i] - centre[i]) * slope + (value[i] * pull + rest[i]);
            found[p] = to_float(value[0], value[1]);
        }
        store(out + d, packed(found[0], found[1], T{}));
    }
}

inline bool fits_float(double factor) {
    const double size = __builtin_fabs(factor);
    return size == 0 || (size >= FLT_MIN && size <= FLT_MAX);
}

// Writes the gradients of R rows of one class, from position `at` of the sorted rows.
template <class T, int R, bool Pulled>
inline void write_rows(const RowGradients& of, const SortedRows& sorted, std::int64_t at,
                       char* buffer, LargestRow& largest) {
    const std::int64_t cols = of.feats.cols, label = sorted.classes[at];
    const std::size_t bytes = static_cast<std::size_t>(cols) * sizeof(T);
    const T* rows[R];
    const T* ahead[R];
    char* out[R];
    T* to[R];
    double pulls[R] = {};
    bool fits = true;
    for (int r = 0; r < R; ++r) {
        const std::int64_t row = sorted.first + sorted.rows[at + r];
        const std::int64_t next = least(at + r + lookahead<T>(cols), sorted.count - 1);
        const T* data = static_cast<const T*>(of.feats.data);
        rows[r] = data + row * of.feats.stride;
        ahead[r] = data + (sorted.first + sorted.rows[next]) * of.feats.stride;
        out[r] = static_cast<char*>(of.out) + static_cast<std::size_t>(row) * bytes;
        to[r] = reinterpret_cast<T*>(of.whole_lines ? out[r] : buffer + r * ((bytes + 127) / 64 * 64));
        if (!Pulled) continue;
        const double norm = norm_of_row(of, rows[r], row, largest);
        const double slope = of.norm_slope + (row == of.row ? of.row_slope : 0);
        if (norm > 0) pulls[r] = slope / norm;
        fits &= fits_float(pulls[r]);
    }
    if constexpr (kHalf<T>) {
        if (of.wide || !fits) {
            for (int r = 0; r < R; ++r) {
                write_wide(of, label, rows[r], pulls[r], reinterpret_cast<T*>(buffer));
                std::memcpy(out[r], buffer, bytes);
            }
            return;
        }
    }
    if (of.whole_lines) return write_tile<T, R, Pulled, true>(of, label, rows, ahead, pulls, to);
    write_tile<T, R, Pulled, false>(of, label, rows, ahead, pulls, to);
    for (int r = 0; r < R; ++r) {
        const char* from = reinterpret_cast<const char*>(to[r]);
        if (of.past_caches) copy_past_caches(from, bytes, out[r]);
        else std::memcpy(out[r], from, bytes);
    }
}

template <class T, bool Pulled>
inline void write_all(const RowGradients& of, const SortedRows& sorted, char* buffer,
                      LargestRow& largest) {
    for (std::int64_t at = 0, end; at < sorted.count; at = end) {
        end = at + 1;
        while (end < sorted.count && sorted.classes[end] == sorted.classes[at]) ++end;
        for (; at + 4 <= end; at += 4) write_rows<T, 4, Pulled>(of, sorted, at, buffer, largest);
        if (at + 2 <= end) write_rows<T, 2, Pulled>(of, sorted, at, buffer, largest), at += 2;
        if (at < end) write_rows<T, 1, Pulled>(of, sorted, at, buffer, largest);
    }
}

template <class T>
void differentiate(const RowGradients& of, const SortedRows& sorted, void* buffer,
                   LargestRow& largest) {
    char* rows = static_cast<char*>(buffer);
    if (of.norms) write_all<T, true>(of, sorted, rows, largest);
    else write_all<T, false>(of, sorted, rows, largest);
    if (of.past_caches) finish_copies();
}

}  // namespace NCFAST_ISA
}  // namespace ncfast

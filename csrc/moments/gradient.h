// The kernel of the gradient through the class moments: each row of features times a factor, plus a
// row that its class shares. A row is read from memory once and written once.
#pragma once

#include "core/isa.h"
#include "core/simd.h"

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

// Writes the numbers of `parts` vectors of double as values of type T.
inline __attribute__((always_inline)) void write(double* to, const VecD* values) {
    store(to, values[0]);
}
inline __attribute__((always_inline)) void write(float* to, const VecD* values) {
    store(to, to_float(values[0]));
}
template <class T>
inline __attribute__((always_inline)) void write(T* to, const VecD* values) {
    VecF wide;
#if NCFAST_VECTOR_BYTES == 64
    wide = (VecF)_mm512_insertf32x8(_mm512_castps256_ps512((__m256)to_float(values[0])),
                                    (__m256)to_float(values[1]), 1);
#else
    const HalfF halves[2] = {to_float(values[0]), to_float(values[1])};
    std::memcpy(&wide, halves, sizeof(wide));
#endif
    const VecH bits = rounded(wide, T{});
    std::memcpy(to, &bits, sizeof(bits));
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

// ---- rows ----

template <class T>
inline double norm_of_row(const T* x, std::int64_t cols) {
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

// Writes x * factor + shared, `cols` numbers; `out` is padded to whole vectors.
template <class T>
inline void scaled_row(const T* x, std::int64_t cols, double factor, const double* shared, T* out) {
    constexpr int kParts = Doubles<T>::kParts, kStep = kParts * kLanes<double>;
    std::int64_t d = 0;
    VecD values[kParts];
    for (; d + kStep <= cols; d += kStep) {
        Doubles<T>::load_from(x + d, values);
        for (int p = 0; p < kParts; ++p)
            values[p] = values[p] * factor + load(shared + d + p * kLanes<double>);
        write(out + d, values);
    }
    if (d < cols) {
        const int left = static_cast<int>(cols - d);
        double rest[kStep] = {};
        std::memcpy(rest, shared + d, static_cast<std::size_t>(left) * sizeof(double));
        Doubles<T>::load_part_from(x + d, left, values);
        for (int p = 0; p < kParts; ++p)
            values[p] = values[p] * factor + load(rest + p * kLanes<double>);
        write(out + d, values);
    }
}

template <class T>
void differentiate(const RowGradients& of, std::int64_t first, std::int64_t count,
                   const std::int64_t* classes, void* buffer, LargestRow& largest) {
    const std::int64_t cols = of.feats.cols;
    const T* data = static_cast<const T*>(of.feats.data);
    T* row = static_cast<T*>(buffer);
    const std::size_t bytes = static_cast<std::size_t>(cols) * sizeof(T);
    for (std::int64_t i = 0; i < count; ++i) {
        const T* x = data + (first + i) * of.feats.stride;
        double factor = of.slopes[classes[i]];
        if (of.norms) {
            const double norm = norm_of_row(x, cols);
            if (norm > largest.norm) largest = {norm, first + i};
            if (norm > 0) factor += of.norm_slope / norm;
            if (first + i == of.row) factor += norm > 0 ? of.row_slope / norm : 0;
        }
        scaled_row(x, cols, factor, of.shared + classes[i] * cols, row);
        char* to = static_cast<char*>(of.out) + static_cast<std::size_t>(first + i) * bytes;
        if (of.past_caches) copy_past_caches(reinterpret_cast<const char*>(row), bytes, to);
        else std::memcpy(to, row, bytes);
    }
    if (of.past_caches) finish_copies();
}

}  // namespace NCFAST_ISA
}  // namespace ncfast

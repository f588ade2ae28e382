// Vectors of the instruction set that the including file is compiled for: loads that widen 16-bit
// types, stores and sums of lanes.
#pragma once

#include "core/types.h"

namespace ncfast {
namespace NCFAST_ISA {

constexpr int kVectorBytes = NCFAST_VECTOR_BYTES;
template <class C>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(C));

typedef float VecF __attribute__((vector_size(NCFAST_VECTOR_BYTES)));
typedef double VecD __attribute__((vector_size(NCFAST_VECTOR_BYTES)));
typedef std::uint32_t VecU __attribute__((vector_size(NCFAST_VECTOR_BYTES)));
typedef std::uint16_t VecH __attribute__((vector_size(NCFAST_VECTOR_BYTES / 2)));
typedef float HalfF __attribute__((vector_size(NCFAST_VECTOR_BYTES / 2)));

inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

template <class C>
struct VectorOf;
template <>
struct VectorOf<float> {
    using type = VecF;
};
template <>
struct VectorOf<double> {
    using type = VecD;
};
template <class C>
using Vec = typename VectorOf<C>::type;

// The type in which a stored type is computed.
template <class T>
struct ComputeOf {
    using type = float;
};
template <>
struct ComputeOf<double> {
    using type = double;
};
template <class T>
using Compute = typename ComputeOf<T>::type;

// Loads a vector from any address.
template <class V>
inline __attribute__((always_inline)) V load_bits(const void* from) {
    V value;
    std::memcpy(&value, from, sizeof(V));
    return value;
}

// Keeps a value in its register: gcc would load it again at its second use.
template <class V>
inline __attribute__((always_inline)) V pinned(V value) {
#if defined(__x86_64__) && NCFAST_VECTOR_BYTES == 64
    asm("" : "+v"(value));
#elif defined(__x86_64__)
    asm("" : "+x"(value));
#elif defined(__aarch64__)
    asm("" : "+w"(value));
#endif
    return value;
}

// Widens 16-bit integers. On x86 the instruction is named: gcc would split the vector into halves.
inline __attribute__((always_inline)) VecU extend(VecH bits) {
#if NCFAST_VECTOR_BYTES == 64
    return (VecU)_mm512_cvtepu16_epi32((__m256i)bits);
#elif NCFAST_VECTOR_BYTES == 32
    return (VecU)_mm256_cvtepu16_epi32((__m128i)bits);
#else
    return __builtin_convertvector(bits, VecU);
#endif
}

inline __attribute__((always_inline)) VecF widen(VecH bits, Bf16) {
    return (VecF)(extend(bits) << 16);
}

inline __attribute__((always_inline)) VecF widen(VecH bits, F16) {
#if NCFAST_VECTOR_BYTES == 64
    return (VecF)_mm512_maskz_cvtph_ps(0xffff, (__m256i)bits);
#elif NCFAST_VECTOR_BYTES == 32
    return (VecF)_mm256_cvtph_ps((__m128i)bits);
#else
    // A product corrects the exponent and normalises subnormals; then inf and NaN are restored.
    const VecU wide = extend(bits);
    const VecU magnitude = (wide & 0x7fffu) << 13;
    const VecU scaled = (VecU)((VecF)magnitude * 0x1p112f);
    const VecU special = (VecU)(magnitude >= 0x0f800000u) & 0x7f800000u;
    return (VecF)(scaled | special | ((wide & 0x8000u) << 16));
#endif
}

inline __attribute__((always_inline)) VecF load(const float* x) { return load_bits<VecF>(x); }
inline __attribute__((always_inline)) VecD load(const double* x) { return load_bits<VecD>(x); }
template <class T>
inline __attribute__((always_inline)) VecF load(const T* x) {
    return widen(load_bits<VecH>(x), T{});
}

// Loads the first `count` lanes. The other lanes are 0, and their memory is not read.
template <class T>
inline __attribute__((always_inline)) Vec<Compute<T>> load_part(const T* x, int count) {
    T padded[kLanes<Compute<T>>] = {};
    std::memcpy(padded, x, static_cast<std::size_t>(count) * sizeof(T));
    return load(padded);
}

#if NCFAST_VECTOR_BYTES == 64
template <>
inline __attribute__((always_inline)) VecF load_part(const float* x, int count) {
    return (VecF)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), x);
}
template <>
inline __attribute__((always_inline)) VecD load_part(const double* x, int count) {
    return (VecD)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), x);
}
#endif

// Loads a whole vector, or the last `left` values of a row.
template <class T>
inline __attribute__((always_inline)) Vec<Compute<T>> load_most(const T* x, std::int64_t left) {
    return left >= kLanes<Compute<T>> ? load(x) : load_part(x, static_cast<int>(left));
}

template <class C, class V>
inline __attribute__((always_inline)) void store(C* to, V value) {
    std::memcpy(to, &value, sizeof(V));
}

// Converts floats to double. On x86 the instruction is named: gcc would convert quarters and join
// them.
inline __attribute__((always_inline)) VecD to_double(HalfF value) {
#if NCFAST_VECTOR_BYTES == 64
    return (VecD)_mm512_maskz_cvtps_pd(0xff, (__m256)value);
#elif NCFAST_VECTOR_BYTES == 32
    return (VecD)_mm256_cvtps_pd((__m128)value);
#else
    return __builtin_convertvector(value, VecD);
#endif
}

// Converts a vector of float to two vectors of double.
inline __attribute__((always_inline)) void widen_halves(VecF value, VecD& low, VecD& high) {
    HalfF halves[2];
    std::memcpy(halves, &value, sizeof(value));
    low = to_double(halves[0]);
    high = to_double(halves[1]);
}

// Loads kParts vectors of double from values of type T: as many as one load of T fills.
template <class T>
struct Doubles {
    static constexpr int kParts = 2;
    static inline __attribute__((always_inline)) void load_from(const T* x, VecD* out) {
        widen_halves(load(x), out[0], out[1]);
    }
    static inline __attribute__((always_inline)) void load_part_from(const T* x, int count,
                                                                     VecD* out) {
        widen_halves(load_part(x, count), out[0], out[1]);
    }
};
template <>
struct Doubles<float> {  // widened as they are loaded: no vector is split
    static constexpr int kParts = 1;
    static inline __attribute__((always_inline)) void load_from(const float* x, VecD* out) {
        out[0] = to_double(load_bits<HalfF>(x));
    }
    static inline __attribute__((always_inline)) void load_part_from(const float* x, int count,
                                                                     VecD* out) {
        VecD zeros;
        widen_halves(load_part(x, count), out[0], zeros);
    }
};
template <>
struct Doubles<double> {
    static constexpr int kParts = 1;
    static inline __attribute__((always_inline)) void load_from(const double* x, VecD* out) {
        out[0] = load(x);
    }
    static inline __attribute__((always_inline)) void load_part_from(const double* x, int count,
                                                                     VecD* out) {
        out[0] = load_part(x, count);
    }
};

// Converts a vector to vectors of double; returns their number.
inline __attribute__((always_inline)) int as_doubles(VecF value, VecD* out) {
    widen_halves(value, out[0], out[1]);
    return 2;
}
inline __attribute__((always_inline)) int as_doubles(VecD value, VecD* out) {
    out[0] = value;
    return 1;
}

// One vector of double with the same sum of lanes.
inline __attribute__((always_inline)) VecD to_double_lanes(VecF value) {
    VecD low, high;
    widen_halves(value, low, high);
    return low + high;
}
inline __attribute__((always_inline)) VecD to_double_lanes(VecD value) { return value; }

inline __attribute__((always_inline)) double sum_lanes(VecD value) {
#if NCFAST_VECTOR_BYTES == 64
    const __m512d all = (__m512d)value;
    const __m256d half = _mm512_castpd512_pd256(all) + _mm512_maskz_extractf64x4_pd(0xf, all, 1);
    const __m128d pair = _mm256_castpd256_pd128(half) + _mm256_extractf128_pd(half, 1);
    return pair[0] + pair[1];
#else
    double total = value[0];
    for (int i = 1; i < kLanes<double>; ++i) total += value[i];
    return total;
#endif
}

// Sums the lanes of each of four vectors: one transposition costs less than four reductions.
inline __attribute__((always_inline)) void sum_lanes_of_four(const VecF (&v)[4], float* sums) {
#if NCFAST_VECTOR_BYTES == 64
    const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
    const __m512 ab = _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b);
    const __m512 cd = _mm512_unpacklo_ps(c, d) + _mm512_unpackhi_ps(c, d);
    const __m512 abcd = _mm512_shuffle_ps(ab, cd, 0x44) + _mm512_shuffle_ps(ab, cd, 0xee);
    const __m256 half = _mm512_castps512_ps256(abcd) + _mm512_extractf32x8_ps(abcd, 1);
    _mm_storeu_ps(sums, _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1));
#else
    for (int r = 0; r < 4; ++r) {
        HalfF halves[2];
        std::memcpy(halves, &v[r], sizeof(v[r]));
        const HalfF half = halves[0] + halves[1];
        sums[r] = half[0];
        for (int i = 1; i < kLanes<float> / 2; ++i) sums[r] += half[i];
    }
#endif
}

// A panel holds the rows or columns that two vectors hold, side by side, one depth after the other.
constexpr int kPanelVectors = 2;

template <class C>
constexpr int kPanel = kPanelVectors * kLanes<C>;

}  // namespace NCFAST_ISA
}  // namespace ncfast

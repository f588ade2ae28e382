// Vectors of the instruction set this file is compiled for, and loads that widen to them.
#pragma once

#include "system.h"
#include "types.h"

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

// What a stored type is computed in.
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

// A vector at any address.
template <class V>
inline __attribute__((always_inline)) V load_bits(const void* from) {
    V value;
    std::memcpy(&value, from, sizeof(V));
    return value;
}

// Keeps a value in its register: gcc would rather load it again at its second use.
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

inline __attribute__((always_inline)) VecF widen(VecH bits, Bf16) {
    const VecU wide = __builtin_convertvector(bits, VecU) << 16;
    return (VecF)wide;
}

inline __attribute__((always_inline)) VecF widen(VecH bits, F16) {
#if NCFAST_VECTOR_BYTES == 64
    return (VecF)_mm512_maskz_cvtph_ps(0xffff, (__m256i)bits);
#elif NCFAST_VECTOR_BYTES == 32
    return (VecF)_mm256_cvtph_ps((__m128i)bits);
#else
    // Rebias the exponent by a product, which also normalises subnormals; then mend inf and NaN.
    const VecU wide = __builtin_convertvector(bits, VecU);
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

// The first `count` lanes; the others are zero, and their memory is not touched.
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

template <class C, class V>
inline __attribute__((always_inline)) void store(C* to, V value) {
    std::memcpy(to, &value, sizeof(V));
}

// float lanes as two vectors of double
inline __attribute__((always_inline)) void widen_halves(VecF value, VecD& low, VecD& high) {
    HalfF halves[2];
    std::memcpy(halves, &value, sizeof(value));
    low = __builtin_convertvector(halves[0], VecD);
    high = __builtin_convertvector(halves[1], VecD);
}

inline __attribute__((always_inline)) VecD to_double_lanes(VecF value) {
    VecD low, high;
    widen_halves(value, low, high);
    return low + high;
}
inline __attribute__((always_inline)) VecD to_double_lanes(VecD value) { return value; }

inline __attribute__((always_inline)) double sum_lanes(VecD value) {
#if NCFAST_VECTOR_BYTES == 64
    return _mm512_reduce_add_pd((__m512d)value);
#else
    double total = value[0];
    for (int i = 1; i < kLanes<double>; ++i) total += value[i];
    return total;
#endif
}

}  // namespace NCFAST_ISA
}  // namespace ncfast

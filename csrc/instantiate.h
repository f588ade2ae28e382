// Included once by each isa_*.cpp: compiles the kernels for that file's instruction set.
// Everything with code sits in a namespace of its own, so that the linker cannot mix them up.
#pragma once

#include "accumulate.h"
#include "kernels.h"
#include "projection.h"

#define NCFAST_KERNELS(variable, name)                                                      \
    namespace ncfast {                                                                      \
    extern const Kernels variable;                                                          \
    const Kernels variable = {                                                              \
        name,                                                                               \
        {&NCFAST_ISA::accumulate<float>, &NCFAST_ISA::accumulate<double>,                   \
         &NCFAST_ISA::accumulate<Bf16>, &NCFAST_ISA::accumulate<F16>},                      \
        {&NCFAST_ISA::project<float>, &NCFAST_ISA::project<double>,                         \
         &NCFAST_ISA::project<Bf16>, &NCFAST_ISA::project<F16>}};                           \
    }                                                                                       \
    static_assert(true, "")

// Compiles the kernels for one instruction set; each isa_*.cpp includes it once.
//
// All code is in a namespace named after the instruction set: the linker must not take a function
// of one set for that of another.
#pragma once

#include "core/isa.h"
#include "moments/accumulate.h"
#include "moments/gradient.h"
#include "moments/welford.h"
#include "neighbors/scan.h"
#include "neighbors/walk.h"
#include "products/deviations.h"
#include "products/margins.h"
#include "products/pairs.h"
#include "summary/small_matrix.h"
#include "tracker/kernels.h"

#define NCFAST_EACH(name)                                                                   \
    {&NCFAST_ISA::name<float>, &NCFAST_ISA::name<double>, &NCFAST_ISA::name<Bf16>,          \
     &NCFAST_ISA::name<F16>}

#define NCFAST_KERNELS(variable, name)                                                      \
    namespace ncfast {                                                                      \
    extern const Kernels variable;                                                          \
    const Kernels variable = {                                                              \
        name,                                                                               \
        NCFAST_EACH(accumulate),                                                            \
        NCFAST_EACH(join),                                                                  \
        NCFAST_EACH(differentiate),                                                         \
        NCFAST_EACH(project),                                                               \
        &NCFAST_ISA::average_mean,                                                          \
        NCFAST_EACH(sum_squares),                                                           \
        {NCFAST_ISA::kPanel<float>,                                                         \
         {&NCFAST_ISA::seek<float, false>, &NCFAST_ISA::seek<float, true>},                 \
         {&NCFAST_ISA::count<float, false>, &NCFAST_ISA::count<float, true>}},              \
        {NCFAST_ISA::kPanel<double>,                                                        \
         {&NCFAST_ISA::seek<double, false>, &NCFAST_ISA::seek<double, true>},               \
         {&NCFAST_ISA::count<double, false>, &NCFAST_ISA::count<double, true>}},            \
        {&NCFAST_ISA::seek_peers<false>, &NCFAST_ISA::seek_peers<true>},                    \
        {&NCFAST_ISA::walk_nearest<false>, &NCFAST_ISA::walk_nearest<true>},                \
        {&NCFAST_ISA::walk_count<false>, &NCFAST_ISA::walk_count<true>},                    \
        {NCFAST_ISA::kPanel<double>, NCFAST_EACH(pack_deviations), NCFAST_EACH(distances),  \
         NCFAST_EACH(choose), NCFAST_EACH(score),                                           \
         &NCFAST_ISA::add_gram, &NCFAST_ISA::pair_block,                                    \
         NCFAST_ISA::margin_kernels<float>(),                                               \
         NCFAST_ISA::margin_kernels<double>()},                                             \
        {NCFAST_ISA::kLanes<double>, &NCFAST_ISA::row_products, &NCFAST_ISA::triangle,      \
         &NCFAST_ISA::reflect_back, &NCFAST_ISA::rotate_all}};                              \
    }                                                                                       \
    static_assert(true, "")

// Included once by each isa_*.cpp: compiles the kernels for that file's instruction set.
// Everything with code sits in a namespace of its own, so that the linker cannot mix them up.
#pragma once

#include "moments/accumulate.h"
#include "tracker/average_mean.h"
#include "products/class_pairs.h"
#include "products/gram.h"
#include "core/kernels.h"
#include "neighbors/sweep.h"
#include "neighbors/walk.h"
#include "products/margins.h"
#include "products/projection.h"
#include "summary/small_matrix.h"
#include "tracker/squares.h"
#include "moments/welford.h"

#define NCFAST_EACH(name)                                                                   \
    {&NCFAST_ISA::name<float>, &NCFAST_ISA::name<double>, &NCFAST_ISA::name<Bf16>,          \
     &NCFAST_ISA::name<F16>}

#define NCFAST_KERNELS(variable, name)                                                      \
    namespace ncfast {                                                                      \
    extern const Kernels variable;                                                          \
    const Kernels variable = {                                                              \
        name,                                                                               \
        {&NCFAST_ISA::accumulate<float>, &NCFAST_ISA::accumulate<double>,                   \
         &NCFAST_ISA::accumulate<Bf16>, &NCFAST_ISA::accumulate<F16>},                      \
        NCFAST_EACH(join),                                                                  \
        {&NCFAST_ISA::project<float>, &NCFAST_ISA::project<double>,                         \
         &NCFAST_ISA::project<Bf16>, &NCFAST_ISA::project<F16>},                            \
        &NCFAST_ISA::average_mean,                                                          \
        NCFAST_EACH(sum_squares),                                                           \
        {NCFAST_ISA::kPanel<float>,                                                         \
         {&NCFAST_ISA::seek<float, false>, &NCFAST_ISA::seek<float, true>},                 \
         {&NCFAST_ISA::count<float, false>, &NCFAST_ISA::count<float, true>}},              \
        {NCFAST_ISA::kPanel<double>,                                                        \
         {&NCFAST_ISA::seek<double, false>, &NCFAST_ISA::seek<double, true>},               \
         {&NCFAST_ISA::count<double, false>, &NCFAST_ISA::count<double, true>}},            \
        {&NCFAST_ISA::walk_nearest<false>, &NCFAST_ISA::walk_nearest<true>},                \
        {&NCFAST_ISA::walk_count<false>, &NCFAST_ISA::walk_count<true>},                    \
        {NCFAST_ISA::kPanel<double>, NCFAST_EACH(pack_deviations), NCFAST_EACH(distances),  \
         &NCFAST_ISA::add_gram, &NCFAST_ISA::pair_block,                                    \
         NCFAST_ISA::margin_kernels<float>(),                                               \
         NCFAST_ISA::margin_kernels<double>()},                                             \
        {NCFAST_ISA::kLanes<double>, &NCFAST_ISA::row_products, &NCFAST_ISA::triangle,      \
         &NCFAST_ISA::sweep}};                                                              \
    }                                                                                       \
    static_assert(true, "")

"""Executes compiled PTX on the CPU, so that tests can run the kernels that a GPU would run.

`launches` compiles and launches, `program` parses PTX, `machine` runs the blocks of a grid,
`memory` finds forbidden accesses and races, `instructions`, `access` and `warps` give each
instruction its meaning with the number formats of `arithmetic`.
"""

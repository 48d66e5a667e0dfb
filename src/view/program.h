/*
 * A view compiled to strided records, all in bytes: what the gather runs.
 *
 * A record stands for one piece: a contiguous run, repeated along `levels` of strides from the outermost to the
 * innermost. A row-parallel slice of a matrix is one record with one level, a column-parallel slice one record with
 * none. Records are sorted by their place in the dense form. A program is read-only once it is compiled.
 */
#ifndef VIEW_PROGRAM_H
#define VIEW_PROGRAM_H

#include "view/spec.h"

typedef struct tpv_level {
    uint64_t count, from, to; /* strides in bytes: of the tensor and of the dense form */
} tpv_level_t;

typedef struct tpv_record {
    uint64_t from;       /* of the first byte, in the tensor; or the number itself */
    uint64_t start, end; /* in the dense form: the first byte, and one behind the last */
    uint64_t run;        /* bytes */
    uint32_t tensor;     /* index in the artifact, TPV_PIECE_ZERO or TPV_PIECE_NUMBER */
    uint32_t levels;
    size_t first_level; /* in the program's levels */
} tpv_record_t;

typedef struct tpv_program {
    tpv_record_t *records; /* owned */
    uint64_t *reach;       /* owned; reach[i] is the largest end of records 0 to i */
    tpv_level_t *levels;   /* owned */
    size_t count;
    uint64_t runs;       /* contiguous copies that the records stand for */
    uint64_t zero_bytes; /* filled, not copied */
} tpv_program_t;

/* Compile a canonical spec that tpv_cover_check has proven. TPV_ERR_PLAN for elements below a byte whose runs or
 * strides are not whole bytes; TPV_ERR_NO_MEMORY. The caller ends *program with tpv_program_clear in any case. */
tpv_status_t tpv_program_compile(const tpv_artifact_t *artifact, const tpv_spec_t *spec, tpv_program_t *program);

void tpv_program_clear(tpv_program_t *program);

/* The first record that may have a byte at or behind `offset`; the following ones up to a `start` behind the wanted
 * range may have, too. `count` when there is none. */
size_t tpv_program_seek(const tpv_program_t *program, uint64_t offset);

/* How many records a walk over dense bytes [low, high) looks at; counts to `most` only. */
size_t tpv_program_meets(const tpv_program_t *program, uint64_t low, uint64_t high, size_t most);

#endif

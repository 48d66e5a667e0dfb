/*
 * The spec of a view in memory: outputs, the pieces they are put together from, and aliases.
 *
 * All sizes, strides and offsets count elements. A spec is made by a plan or read from JSON, then checked and brought
 * into canonical form (spec_canonical.h), proven (cover.h) and compiled (program.h). It is used by one thread.
 */
#ifndef VIEW_SPEC_H
#define VIEW_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tpview/artifact.h"

#define TPV_MAX_OUTPUTS TPV_MAX_TENSORS
#define TPV_MAX_PIECES (4u << 20)
#define TPV_MAX_SPEC_BYTES (64u << 20) /* longest JSON text, read or written */

#define TPV_PIECE_ZERO UINT32_MAX         /* instead of a tensor: fill with zeros */
#define TPV_PIECE_NUMBER (UINT32_MAX - 1) /* instead of a tensor: write the whole number `from` to one element */

/* One dim of a box: `size` steps, each `from` elements further in the tensor and `to` elements further in the output.
 */
typedef struct tpv_piece_dim {
    uint64_t size, from, to;
} tpv_piece_dim_t;

typedef struct tpv_piece {
    uint32_t tensor; /* index in the artifact, TPV_PIECE_ZERO or TPV_PIECE_NUMBER */
    uint32_t dims;
    uint64_t from; /* offset of the first element in the tensor; 0 for zeros; the number */
    uint64_t to;   /* offset of the first element in the output */
    tpv_piece_dim_t dim[TPV_MAX_DIMS];
} tpv_piece_t;

typedef struct tpv_spec_output {
    char *name; /* owned */
    tpv_dtype_t dtype;
    uint32_t dims;
    uint64_t shape[TPV_MAX_DIMS];
    uint64_t elements;
    uint64_t bytes;
    uint64_t offset;     /* in the dense form, bytes */
    const char *apart;   /* why it was not fused, static; NULL: it was, or was not meant to be */
    tpv_piece_t *pieces; /* owned */
    size_t piece_count, piece_room;
} tpv_spec_output_t;

typedef struct tpv_spec_alias {
    char *name, *target; /* owned */
} tpv_spec_alias_t;

typedef struct tpv_spec {
    tpv_spec_output_t *outputs;
    size_t output_count, output_room;
    tpv_spec_alias_t *aliases;
    size_t alias_count, alias_room;
    size_t piece_count; /* of all outputs */
    uint64_t bytes;     /* of the dense form */
} tpv_spec_t;

/* Free what the spec owns; it is empty afterwards. */
void tpv_spec_clear(tpv_spec_t *spec);

/*
 * Append an output without pieces; the name is copied. TPV_ERR_PLAN when the name is empty, too long or reserved by the
 * file format, when it is not a whole number of bytes, or when the dense form grows beyond TPV_MAX_VIEW_BYTES or
 * TPV_MAX_OUTPUTS; TPV_ERR_NO_MEMORY.
 */
tpv_status_t tpv_spec_add_output(tpv_spec_t *spec, const char *name, tpv_dtype_t dtype, uint32_t dims,
                                 const uint64_t *shape);

/* Append a piece to the latest output. TPV_ERR_PLAN beyond TPV_MAX_PIECES, TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_spec_add_piece(tpv_spec_t *spec, const tpv_piece_t *piece);

/* Let `name` stand for the output `target`. Both are copied and checked later, by tpv_spec_check. TPV_ERR_NO_MEMORY,
 * TPV_ERR_PLAN beyond TPV_MAX_OUTPUTS. */
tpv_status_t tpv_spec_add_alias(tpv_spec_t *spec, const char *name, const char *target);

/* The place of a tensor in the artifact's index. False when there is none of that name. */
bool tpv_spec_find_tensor(const tpv_artifact_t *artifact, const char *name, uint32_t *index);

/* The row-major strides of `shape`. */
void tpv_spec_row_major(uint32_t dims, const uint64_t *shape, uint64_t *strides);

/* Is something copied from a tensor? */
static inline bool tpv_piece_copies(uint32_t tensor) {
    return tensor < TPV_PIECE_NUMBER;
}

/* What to call the source of a piece in a message. */
const char *tpv_piece_source_name(const tpv_artifact_t *artifact, const tpv_piece_t *piece);

#endif

/*
 * Views: what one tensor-parallel rank needs of an artifact, as one dense run of bytes.
 *
 * A view is an ordered list of outputs. Each output is a row-major tensor put together from pieces: a piece copies a
 * strided box of one source tensor into a strided place of the output, or fills a place with zeros. Outputs are packed
 * one behind the other without gaps: the dense form, which is what travels and what a fetch writes. A view exists only
 * if every one of its dense bytes is written exactly once.
 *
 * Views come from TP rules (tpv_view_plan) or from an explicit spec (tpv_view_from_json), such as slices recorded from
 * an engine's own loader; docs/views.md has the grammar of both. view_id is a digest of the canonical spec and of the
 * artifact's index_digest: it does not depend on values.
 *
 * Threads: a view is read-only; all functions but tpv_view_free may run at the same time. A view holds no pointer into
 * the artifact it was made for, so either may be closed first.
 */
#ifndef TPVIEW_VIEW_H
#define TPVIEW_VIEW_H

#include "tpview/artifact.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TPV_MAX_TP_SIZE 1024u
#define TPV_MAX_VIEW_BYTES (UINT64_C(1) << 46) /* longest dense form */

typedef struct tpv_view tpv_view_t;

typedef struct tpv_plan_options {
    uint32_t tp_size; /* 1 to TPV_MAX_TP_SIZE */
    uint32_t tp_rank; /* below tp_size */
    bool fuse;        /* q, k, v into qkv_proj and gate, up into gate_up_proj */
    const char *plan; /* JSON text of a plan file, or NULL for the built-in plan of config.json's model_type */
    size_t plan_length;
    uint32_t ep_size;        /* groups that the experts of a layer are divided among, to TPV_MAX_TP_SIZE; 0 as 1 */
    uint32_t ep_rank;        /* the rank's group, below ep_size */
    uint32_t expert_tp_size; /* ranks that each expert is cut for; 0: tp_size, with ep_size above 1 one */
    uint32_t expert_tp_rank; /* below expert_tp_size */
} tpv_plan_options_t;

typedef struct tpv_output {
    const char *name; /* owned by the view */
    tpv_dtype_t dtype;
    uint32_t dims;
    uint64_t shape[TPV_MAX_DIMS];
    uint64_t offset; /* in the dense form */
    uint64_t bytes;
} tpv_output_t;

typedef struct tpv_view_stats {
    uint64_t bytes;   /* of the dense form */
    uint64_t zeros;   /* of these, filled and not copied */
    uint64_t outputs; /* tensors */
    uint64_t records; /* strided records in the compiled program */
    uint64_t runs;    /* contiguous copies that the records stand for */
} tpv_view_stats_t;

/*
 * Plan the view of one rank. A pure function of its arguments: nothing but shapes is read, so an index will do. A
 * plan file holds either TP rules or an explicit spec. TPV_ERR_PLAN names the tensor and the reason (uneven split,
 * no rule, missing tensor, overlap, uncovered bytes, an edge inside a quantisation block); TPV_ERR_FORMAT a fault of
 * the plan file; TPV_ERR_ARGUMENT, TPV_ERR_NO_MEMORY. The caller owns *view.
 */
TPV_API tpv_status_t tpv_view_plan(const tpv_artifact_t *artifact, const tpv_plan_options_t *options,
                                   tpv_view_t **view);

/*
 * Why one rank gets what it gets of `name`: a tensor of the artifact, or an output or alias of the view, of which all
 * tensors are explained. *json is the text of
 *
 *   {"name": …, "tensors": [{"tensor", "dtype", "shape",
 *     "rule": {"pattern", "word", "plan" (whose rule it is), "disk" (the pattern for names on disk, where it differs)},
 *     "why": a sentence,
 *     "axis", "ranges": [[first, last + 1], …] along it, "zeros" behind them,
 *     "outputs": [{"name", "dtype", "shape", "offset", "bytes", "pieces": [{"sizes", "strides", "offset", "to"}]}]}]}
 *
 * "rule" is null when none speaks of the tensor, "axis" when all of it is sent or the plan is an explicit view; numbers
 * of pieces are elements, offset and bytes of outputs bytes of the dense form. The caller frees *json. Errors of
 * tpv_view_plan; TPV_ERR_NOT_FOUND for an unknown name, with those that come near.
 */
TPV_API tpv_status_t tpv_plan_explain(const tpv_artifact_t *artifact, const tpv_plan_options_t *options,
                                      const char *name, char **json);

/*
 * The plans that come with tpview, one for each family of models, in order of their names; NULL behind the last. *text,
 * unless `text` is NULL, is the plan file, whose "model_types" tell for which it stands. Static storage.
 */
TPV_API const char *tpv_plan_family(size_t index, const char **text);

/* Make a view of an explicit spec. Errors as tpv_view_plan. The caller owns *view. */
TPV_API tpv_status_t tpv_view_from_json(const tpv_artifact_t *artifact, const char *json, size_t length,
                                        tpv_view_t **view);

/* NULL is allowed. */
TPV_API void tpv_view_free(tpv_view_t *view);

/* The canonical spec; tpv_view_from_json of it gives the same view_id. Owned by the view. */
TPV_API const char *tpv_view_json(const tpv_view_t *view);
/* 32 lower-case hex digits. Owned by the view. */
TPV_API const char *tpv_view_id(const tpv_view_t *view);
TPV_API tpv_view_stats_t tpv_view_stats(const tpv_view_t *view);

/* Outputs in dense order. */
TPV_API size_t tpv_view_output_count(const tpv_view_t *view);
TPV_API const tpv_output_t *tpv_view_output(const tpv_view_t *view, size_t index);
/* Why output `index` stays by itself in a plan that fuses, in a few words that live as long as the library. NULL when
 * it is fused, when no fusing is meant for it, and for an index that is too large. Views made of a spec do not know. */
TPV_API const char *tpv_view_apart(const tpv_view_t *view, size_t index);
/* Names that stand for another output's bytes (tied embeddings): alias `index` is `*name`, of output `*target`.
 * False when there is no such alias. */
TPV_API bool tpv_view_alias(const tpv_view_t *view, size_t index, const char **name, const char **target);

/*
 * Gather dense bytes [offset, offset + length) into `destination`, which must not overlap the artifact. `artifact` must
 * have data and the index_digest that the view was made for, else TPV_ERR_ARGUMENT, as for a range outside of the view.
 * If a file of the artifact was truncated since it was opened: TPV_ERR_FORMAT.
 */
TPV_API tpv_status_t tpv_view_gather(const tpv_view_t *view, const tpv_artifact_t *artifact, uint64_t offset,
                                     uint64_t length, void *destination);

/*
 * The place in the artifact's mapping that holds dense bytes [offset, offset + length) as they are, or NULL when they
 * are not one contiguous run there. Lets a caller send them without a copy. Arguments as tpv_view_gather.
 */
TPV_API const void *tpv_view_direct(const tpv_view_t *view, const tpv_artifact_t *artifact, uint64_t offset,
                                    uint64_t length);

/*
 * Write the safetensors header of the dense form: 8 bytes of length, JSON, padding so that the data that follows begins
 * at a multiple of 64 (the format asks for 8). `metadata`, "key\0value\0…\0\0" or NULL, goes into __metadata__, which
 * also lists the aliases: "tpview.aliases" is the text of a JSON object {name: target}. The caller frees *header.
 * TPV_ERR_UNSUPPORTED for a header that is longer than the format allows; TPV_ERR_NO_MEMORY.
 */
TPV_API tpv_status_t tpv_view_safetensors_header(const tpv_view_t *view, const char *metadata, void **header,
                                                 size_t *header_bytes);

#ifdef __cplusplus
}
#endif
#endif

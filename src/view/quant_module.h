/*
 * Modules: parameters that are one weight together, and how the axes of the weight lie in each of them.
 *
 * A quantised weight [out, in] (or [experts, out, in]) is on disk as several tensors: codes, which may be packed,
 * scales and zero points of channels, groups or blocks, an order of groups. Whoever cuts the weight cuts each of them
 * at the same places; where such a place lies inside of a pack or a group, the weight cannot be cut there.
 */
#ifndef VIEW_QUANT_MODULE_H
#define VIEW_QUANT_MODULE_H

#include <stddef.h>

#include "tpview/artifact.h"
#include "view/quant_config.h"

#define TPV_MAX_PARAMETERS 16u /* of a module */

typedef enum tpv_parameter_kind {
    TPV_PARAMETER_CODES,   /* the weight itself, quantised or not */
    TPV_PARAMETER_GRID,    /* scales or zero points: of the weight, of channels, groups or blocks */
    TPV_PARAMETER_ROWS,    /* one number for each output: bias */
    TPV_PARAMETER_COLUMNS, /* one for each input */
    TPV_PARAMETER_ORDER,   /* g_idx: the group of each input */
    TPV_PARAMETER_SHAPE,   /* weight_shape: [out, in] as numbers */
    TPV_PARAMETER_HEADS,   /* scales of keys or values: one, or one for each head */
    TPV_PARAMETER_ONE,     /* one number, at most one for each expert */
    TPV_PARAMETER_OPAQUE,  /* of a format that cannot be cut */
    TPV_PARAMETER_OTHER,   /* not known */
} tpv_parameter_kind_t;

/* Where an axis of the weight is in a parameter: `steps` of the parameter's `axis` for `weights` of the weight's. */
typedef struct tpv_along {
    int axis;         /* -1: the parameter has nothing of it and is whole */
    uint64_t weights; /* 0: it cannot be cut along this axis; `opaque` of the module says why */
    uint64_t steps;
} tpv_along_t;

typedef struct tpv_parameter {
    const tpv_tensor_t *tensor;
    tpv_parameter_kind_t kind;
    bool packed;                     /* zero points: several rows to a word */
    tpv_along_t along[TPV_MAX_DIMS]; /* for each axis of the weight */
} tpv_parameter_t;

typedef struct tpv_module {
    char name[TPV_MAX_NAME + 16];
    bool quantised;
    char reason[TPV_MAX_NAME + 256]; /* why a quantised module cannot be cut; "" when it can */
    const char *opaque;              /* why it cannot be cut along some axis */
    tpv_tensor_t weight;             /* as if it were not quantised, with a name as that would have */
    char weight_name[TPV_MAX_NAME + 24];
    bool reordered; /* groups are not those of neighbours: every rank needs all of them */
    bool stack;     /* parameters are NAME_blocks, not NAME.weight */
    tpv_parameter_t parameter[TPV_MAX_PARAMETERS];
    uint32_t count;
} tpv_module_t;

/* Rows and columns of the weight, as axes; a vector has no columns: the same axis. */
int tpv_module_rows(const tpv_module_t *module);
int tpv_module_columns(const tpv_module_t *module);

/*
 * The module that a tensor is a parameter of. `quant` is what config.json says. Never fails: what cannot be understood
 * is a module with a reason. A module that is not quantised has only `quantised` and `name`.
 */
void tpv_module_of(const tpv_artifact_t *artifact, const tpv_quant_config_t *quant, const char *tensor,
                   tpv_module_t *module);

/* The parameter of that name; NULL when the module has none. */
const tpv_parameter_t *tpv_module_find(const tpv_module_t *module, const char *tensor);

/*
 * Find out the weight and the place of its axes in each parameter (quant_format.c). False with `reason` set when the
 * parameters do not fit together, or their format cannot be cut.
 */
bool tpv_module_lay_out(const tpv_quant_config_t *quant, tpv_module_t *module);

/* The parameter of that last part ("weight", "qweight"; of a stack "blocks", "" for its name alone), or NULL. */
tpv_parameter_t *tpv_module_part(tpv_module_t *module, const char *part);

/* How long the module's part of a tensor's name is; 0 when it has none. What a serialised weight consists of
 * ("q_proj.weight.absmax", "q_proj.weight._data") belongs to the module of the weight. */
size_t tpv_module_length(const char *tensor);

/*
 * Is the tensor part of a quantised stack of experts that has no module of its own ("experts.down_proj_blocks")? Then
 * *length is how long the stack's part of the name is.
 */
bool tpv_stack_length(const tpv_artifact_t *artifact, const char *tensor, size_t *length);

#endif

/* The plans that come with tpview: the files of src/view/families, embedded as they are when it is built. */
#ifndef VIEW_FAMILIES_H
#define VIEW_FAMILIES_H

#include <stddef.h>

#include "tpview/status.h"

typedef struct tpv_family {
    const char *name; /* of the file, without .json */
    const char *text; /* a plan file with "model_types" */
} tpv_family_t;

/* In order of their names; NULL behind the last. Static storage. */
const tpv_family_t *tpv_family_at(size_t index);

/* The family that names `model_type`. TPV_ERR_PLAN when none does, TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_family_find(const char *model_type, const tpv_family_t **family);

/* What a plan file with rules of its own starts from, by its file's name: "defaults" for prefixes and heads that most
 * models share, "transformers" for how transformers' names stand on disk. Static storage. */
const char *tpv_family_base(const char *name);

#endif

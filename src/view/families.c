#include "view/families.h"

#include <string.h>

#include "artifact/json.h"
#include "base/error.h"

/* Made by the Makefile: {"name", "text"}, for each file. "defaults" and "transformers" are no families. */
static const tpv_family_t embedded[] = {
#include "view/families.inc"
    {NULL, NULL},
};

static bool is_base(const tpv_family_t *family) {
    return strcmp(family->name, "defaults") == 0 || strcmp(family->name, "transformers") == 0;
}

const tpv_family_t *tpv_family_at(size_t index) {
    for (const tpv_family_t *family = embedded; family->name; family++)
        if (!is_base(family) && index-- == 0) return family;
    return NULL;
}

const char *tpv_family_base(const char *name) {
    for (const tpv_family_t *family = embedded; family->name; family++)
        if (is_base(family) && strcmp(family->name, name) == 0) return family->text;
    return "{}";
}

typedef struct {
    const char *model_type;
    bool found;
} search_t;

static tpv_status_t visit(void *user, const char *name, tpv_json_text_t value) {
    search_t *search = user;
    json_t *types = NULL, *type;
    size_t index;
    if (strcmp(name, "model_types") != 0) return TPV_OK;
    TPV_TRY(tpv_json_parse(value, value.length, &types));
    json_array_foreach(types, index, type) {
        search->found = search->found || strcmp(json_string_value(type), search->model_type) == 0;
    }
    json_decref(types);
    return TPV_OK;
}

tpv_status_t tpv_family_find(const char *model_type, const tpv_family_t **family) {
    search_t search = {.model_type = model_type};
    for (size_t i = 0; (*family = tpv_family_at(i)); i++) {
        TPV_TRY(tpv_json_members((tpv_json_text_t){(*family)->text, strlen((*family)->text)}, visit, &search));
        if (search.found) return TPV_OK;
    }
    return tpv_error_set(TPV_ERR_PLAN,
                         "model_type \"%s\" has no built-in plan (\"tpview plan --families\" lists those there are): "
                         "give a plan file",
                         model_type);
}

#include "view/plan_fuse.h"

#include <stdio.h>
#include <string.h>

#include "artifact/artifact.h"
#include "base/error.h"

/* packed_modules_mapping of vLLM 0.32's model classes; for mixtral's experts w1 is gate and w3 is up. */
static const struct {
    const char *fused;
    const char *parts[TPV_MAX_FUSE_PARTS];
} groups[] = {
    {"qkv_proj", {"q_proj", "k_proj", "v_proj"}},
    {"gate_up_proj", {"gate_proj", "up_proj", NULL}},
    {"w13", {"w1", "w3", NULL}},
};

/* Parameters that the fused module has as a whole; any other stays with its own projection. */
static const char *const parameters[] = {"weight", "bias", "weight_scale_inv", "weight_scale", "input_scale"};

static bool is_fused_parameter(const char *name) {
    for (size_t i = 0; i < sizeof parameters / sizeof *parameters; i++)
        if (strcmp(parameters[i], name) == 0) return true;
    return false;
}

bool tpv_fuse_of(const char *tensor, tpv_fuse_t *fuse) {
    const char *dot = strrchr(tensor, '.');
    if (!dot || dot == tensor) return false;
    if (!is_fused_parameter(dot + 1)) return false;

    const char *module = dot;
    while (module > tensor && module[-1] != '.')
        module--;
    size_t length = (size_t)(dot - module);
    int parent = (int)(module - tensor); /* with its dot */
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        bool belongs = false;
        fuse->parts = 0;
        for (unsigned p = 0; p < TPV_MAX_FUSE_PARTS && groups[g].parts[p]; p++) {
            const char *part = groups[g].parts[p];
            if (strlen(part) == length && memcmp(part, module, length) == 0) {
                belongs = true;
                fuse->place = p;
            }
            snprintf(fuse->part[p], sizeof fuse->part[p], "%.*s%s%s", parent, tensor, part, dot);
            fuse->parts++;
        }
        if (!belongs) continue;
        snprintf(fuse->name, sizeof fuse->name, "%.*s%s%s", parent, tensor, groups[g].fused, dot);
        return true;
    }
    return false;
}

/* Scales of the key and value cache are named after a projection, but are no part of it. */
static bool is_of_the_cache(const char *name) {
    return strcmp(name, "k_scale") == 0 || strcmp(name, "v_scale") == 0 || strcmp(name, "q_scale") == 0;
}

/* Why the tensor cannot stand below the same parameter of the first projection, or NULL. */
static const char *check_alike(const tpv_artifact_t *artifact, const tpv_fuse_t *fuse, const tpv_tensor_t *tensor) {
    char name[sizeof fuse->part[0]];
    const char *dot = strrchr(fuse->part[0], '.');
    snprintf(name, sizeof name, "%.*s%s", (int)(dot - fuse->part[0]), fuse->part[0], strrchr(tensor->name, '.'));
    const tpv_tensor_t *first = tpv_artifact_find(artifact, name);
    if (!first) return NULL;
    if (first->dtype != tensor->dtype) return "its projections have several dtypes";
    if (first->dims != tensor->dims) return "the parameters of its projections have several shapes";
    /* One scale for all of a projection, and one for each of its rows. */
    if (first->dims > 0 && (first->shape[0] == 1) != (tensor->shape[0] == 1))
        return "the parameters of its projections have several shapes";
    for (uint32_t i = 1; i < first->dims; i++)
        if (first->shape[i] != tensor->shape[i]) return "the parameters of its projections have several shapes";
    return NULL;
}

/* Why a tensor cannot be part of a fused one, or NULL. */
static tpv_status_t check_tensor(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, bool last,
                                 const char **reason) {
    const tpv_rule_t *rule;
    tpv_cut_t cut;
    *reason = "a parameter that a fused module does not have";
    if (!is_fused_parameter(strrchr(tensor->name, '.') + 1)) return TPV_OK;
    TPV_TRY(tpv_rules_find(cutter->rules, tensor->name, &rule));
    *reason = "not all of its projections are cut colwise";
    if (!rule || rule->kind != TPV_CUT_COLWISE) return TPV_OK;
    TPV_TRY(tpv_cut_tensor(cutter, tensor, rule, &cut));
    *reason = "not all of its projections can be cut";
    if (cut.left_whole) return TPV_OK;
    *reason = "its projections are no matrices";
    if (tensor->dims > 2 || cut.axis > 0 || cut.pad > 0) return TPV_OK;
    *reason = "rows of a projection end inside of a quantisation block";
    if (!last && cut.partial_block) return TPV_OK;
    *reason = NULL;
    return TPV_OK;
}

tpv_status_t tpv_fuse_possible(const tpv_cutter_t *cutter, const tpv_fuse_t *fuse, const char **reason) {
    const tpv_artifact_t *artifact = cutter->artifact;
    for (unsigned p = 0; p < fuse->parts; p++) {
        size_t length = (size_t)(strrchr(fuse->part[p], '.') + 1 - fuse->part[p]);
        size_t first = tpv_artifact_seek(artifact, fuse->part[p], length), count = tpv_artifact_tensor_count(artifact),
               at;
        for (at = first; at < count; at++) {
            const tpv_tensor_t *tensor = tpv_artifact_tensor(artifact, at);
            if (strncmp(tensor->name, fuse->part[p], length) != 0) break;
            if (is_of_the_cache(tensor->name + length)) continue;
            *reason = check_alike(artifact, fuse, tensor);
            if (*reason) return TPV_OK;
            TPV_TRY(check_tensor(cutter, tensor, p + 1 == fuse->parts, reason));
            if (*reason) return TPV_OK;
        }
        *reason = "not all of its projections are there";
        if (at == first) return TPV_OK;
    }
    *reason = NULL;
    return TPV_OK;
}

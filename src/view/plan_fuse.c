#include "view/plan_fuse.h"

#include <stdio.h>
#include <string.h>

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

/* The first tensor whose name is not below `start`. */
static size_t lower_bound(const tpv_artifact_t *artifact, const char *start, size_t length) {
    size_t low = 0, high = tpv_artifact_tensor_count(artifact);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strncmp(tpv_artifact_tensor(artifact, middle)->name, start, length) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

tpv_status_t tpv_fuse_possible(const tpv_artifact_t *artifact, tpv_rules_t *rules, const tpv_fuse_t *fuse,
                               const char **reason) {
    for (unsigned p = 0; p < fuse->parts; p++) {
        size_t length = (size_t)(strrchr(fuse->part[p], '.') + 1 - fuse->part[p]);
        size_t first = lower_bound(artifact, fuse->part[p], length), count = tpv_artifact_tensor_count(artifact), at;
        for (at = first; at < count; at++) {
            const char *name = tpv_artifact_tensor(artifact, at)->name;
            const tpv_rule_t *rule;
            if (strncmp(name, fuse->part[p], length) != 0) break;
            *reason = "a parameter that a fused module does not have";
            if (!is_fused_parameter(name + length)) return TPV_OK;
            TPV_TRY(tpv_rules_find(rules, name, &rule));
            *reason = "not all of its projections are cut colwise";
            if (!rule || rule->kind != TPV_CUT_COLWISE) return TPV_OK;
        }
        *reason = "not all of its projections are there";
        if (at == first) return TPV_OK;
    }
    *reason = NULL;
    return TPV_OK;
}

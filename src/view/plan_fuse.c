#include "view/plan_fuse.h"

#include <stdio.h>
#include <string.h>

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

bool tpv_fuse_of(const char *tensor, tpv_fuse_t *fuse) {
    const char *dot = strrchr(tensor, '.');
    if (!dot || dot == tensor) return false;
    bool known = false;
    for (size_t i = 0; i < sizeof parameters / sizeof *parameters; i++)
        known = known || strcmp(parameters[i], dot + 1) == 0;
    if (!known) return false;

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

#include "view/plan_near.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

#define MOST 3
#define FAR UINT32_MAX

typedef struct {
    const char *name[MOST];
    uint32_t distance[MOST]; /* rising */
    size_t count;
} near_t;

/* The least number of characters to insert, drop or change; FAR when that is more than `most`. */
static uint32_t edits(const char *a, const char *b, uint32_t most) {
    uint32_t row[TPV_MAX_NAME + 1]; /* not thread-local: a library that is loaded late has little room for such */
    size_t rows = strlen(a), columns = strlen(b);
    if (columns > TPV_MAX_NAME || rows > columns + most || columns > rows + most) return FAR;
    for (size_t j = 0; j <= columns; j++)
        row[j] = (uint32_t)j;
    for (size_t i = 1; i <= rows; i++) {
        uint32_t corner = row[0], least = row[0] = (uint32_t)i;
        for (size_t j = 1; j <= columns; j++) {
            uint32_t change = corner + (a[i - 1] != b[j - 1]);
            uint32_t other = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            corner = row[j];
            row[j] = change < other ? change : other;
            if (row[j] < least) least = row[j];
        }
        if (least > most) return FAR;
    }
    return row[columns] <= most ? row[columns] : FAR;
}

/* A name that has all of the other in it, such as one without its beginning or ".weight", is as near as can be. */
static void consider(near_t *near, const char *wanted, const char *name) {
    uint32_t most = (uint32_t)strlen(wanted) / 3 + 1;
    if (near->count == MOST && near->distance[MOST - 1] < most) most = near->distance[MOST - 1];
    uint32_t distance = strstr(name, wanted) ? 0 : edits(wanted, name, most);
    if (distance == FAR || (near->count == MOST && distance >= near->distance[MOST - 1])) return;
    size_t at = near->count < MOST ? near->count++ : MOST - 1;
    for (; at > 0 && near->distance[at - 1] > distance; at--) {
        near->name[at] = near->name[at - 1];
        near->distance[at] = near->distance[at - 1];
    }
    near->name[at] = name;
    near->distance[at] = distance;
}

tpv_status_t tpv_near_error(const tpv_artifact_t *artifact, const tpv_spec_t *spec, const char *name) {
    near_t near = {0};
    char text[MOST * (TPV_MAX_NAME + 2) + 1] = "";
    size_t length = 0, count = tpv_artifact_tensor_count(artifact);
    for (size_t i = 0; i < count && *name; i++)
        consider(&near, name, tpv_artifact_tensor(artifact, i)->name);
    for (size_t i = 0; i < spec->output_count && *name; i++)
        if (!tpv_artifact_find(artifact, spec->outputs[i].name)) consider(&near, name, spec->outputs[i].name);
    for (size_t i = 0; i < near.count; i++)
        length += (size_t)snprintf(text + length, sizeof text - length, "%s%s", i ? ", " : "", near.name[i]);
    return tpv_error_set(TPV_ERR_NOT_FOUND, "%.200s: neither a tensor of the checkpoint nor an output of the view%s%s",
                         name, near.count ? "; near it: " : "", text);
}

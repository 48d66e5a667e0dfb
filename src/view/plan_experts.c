#include "view/plan_experts.h"

#include <ctype.h>
#include <string.h>

#include "artifact/artifact.h"
#include "base/error.h"

typedef unsigned long long ull;

#define NO_NUMBER UINT64_MAX

/* How long the name is up to and with "experts."; 0: it is no expert's. */
static size_t layer_length(const char *name) {
    static const char word[] = "experts.";
    for (const char *at = name; (at = strstr(at, word)); at++)
        if (at == name || at[-1] == '.') return (size_t)(at - name) + sizeof word - 1;
    return 0;
}

/* The expert's number behind "experts."; NO_NUMBER: a stack. */
static uint64_t number_of(const char *rest) {
    uint64_t number = 0;
    int digits = 0;
    for (; isdigit((unsigned char)*rest) && digits < 9; rest++, digits++)
        number = number * 10 + (uint64_t)(*rest - '0');
    return digits > 0 && *rest == '.' ? number : NO_NUMBER;
}

/* Count the experts of a layer: names in order have all tensors of one expert together. */
static tpv_status_t count_experts(const tpv_artifact_t *artifact, const char *layer, uint64_t *count) {
    size_t length = strlen(layer), total = tpv_artifact_tensor_count(artifact);
    uint64_t last = NO_NUMBER, largest = 0, numbers = 0, stacked = 0;
    for (size_t i = tpv_artifact_seek(artifact, layer, length); i < total; i++) {
        const tpv_tensor_t *tensor = tpv_artifact_tensor(artifact, i);
        if (strncmp(tensor->name, layer, length) != 0) break;
        uint64_t number = number_of(tensor->name + length);
        if (number == NO_NUMBER) {
            if (tensor->dims >= 3 && stacked == 0) stacked = tensor->shape[0];
            continue;
        }
        if (number != last) numbers++;
        if (number > largest) largest = number;
        last = number;
    }
    if (numbers > 0 && numbers != largest + 1)
        return tpv_error_set(TPV_ERR_PLAN, "%s%llu is there, but only %llu experts in all: they cannot be divided",
                             layer, (ull)largest, (ull)numbers);
    if (numbers > 0 && stacked > 0 && stacked != numbers)
        return tpv_error_set(TPV_ERR_PLAN, "%s has %llu experts one by one and a stack of %llu", layer, (ull)numbers,
                             (ull)stacked);
    *count = numbers > 0 ? numbers : stacked;
    if (*count > 0) return TPV_OK;
    return tpv_error_set(TPV_ERR_PLAN, "%s: no tensor tells how many experts there are", layer);
}

static bool has_one_element(const tpv_tensor_t *tensor) {
    for (uint32_t i = 0; i < tensor->dims; i++)
        if (tensor->shape[i] != 1) return false;
    return true;
}

static tpv_status_t find_part(tpv_experts_t *experts, const tpv_artifact_t *artifact, const tpv_tensor_t *tensor,
                              tpv_expert_part_t *part) {
    size_t length = layer_length(tensor->name);
    *part = (tpv_expert_part_t){.here = true};
    if (length == 0) return TPV_OK;
    if (strncmp(experts->layer, tensor->name, length) != 0 || experts->layer[length] != '\0') {
        memcpy(experts->layer, tensor->name, length);
        experts->layer[length] = '\0';
        experts->count = 0;
    }
    if (experts->count == 0) TPV_TRY(count_experts(artifact, experts->layer, &experts->count));
    experts->any = true;
    uint64_t each = experts->count / experts->size, more = experts->count % experts->size, rank = experts->rank;
    uint64_t number = number_of(tensor->name + length);
    part->expert = true;
    part->start = rank * each + (rank < more ? rank : more);
    part->count = each + (rank < more);
    if (number != NO_NUMBER) {
        part->here = number >= part->start && number - part->start < part->count;
        return TPV_OK;
    }
    part->here = part->count > 0;
    if (has_one_element(tensor) && experts->count > 1) return TPV_OK;
    if (tensor->dims == 0 || tensor->shape[0] != experts->count)
        return tpv_error_set(TPV_ERR_PLAN, "%s: is not one for each of its layer's %llu experts", tensor->name,
                             (ull)experts->count);
    part->stacked = true;
    return TPV_OK;
}

tpv_experts_t tpv_experts_asked(const tpv_plan_options_t *options) {
    bool divided = options->ep_size > 1, own = options->expert_tp_size > 0;
    return (tpv_experts_t){.size = divided ? options->ep_size : 1,
                           .rank = options->ep_rank,
                           .tp_size = options->tp_size,
                           .tp_rank = options->tp_rank,
                           .expert_tp_size = own       ? options->expert_tp_size
                                             : divided ? 1
                                                       : options->tp_size,
                           .expert_tp_rank = own       ? options->expert_tp_rank
                                             : divided ? 0
                                                       : options->tp_rank};
}

tpv_status_t tpv_experts_turn(tpv_cutter_t *cutter, const tpv_tensor_t *tensor, tpv_expert_part_t *part) {
    tpv_experts_t *experts = cutter->experts;
    *part = (tpv_expert_part_t){.here = true};
    cutter->tp_size = experts->tp_size;
    cutter->tp_rank = experts->tp_rank;
    bool alike = experts->expert_tp_size == experts->tp_size && experts->expert_tp_rank == experts->tp_rank;
    if (experts->size == 1 && alike) return TPV_OK;
    TPV_TRY(find_part(experts, cutter->artifact, tensor, part));
    if (experts->size == 1) part->stacked = false;
    if (!part->expert) return TPV_OK;
    cutter->tp_size = experts->expert_tp_size;
    cutter->tp_rank = experts->expert_tp_rank;
    return TPV_OK;
}

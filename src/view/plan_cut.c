#include "view/plan_cut.h"

#include <stdio.h>
#include <string.h>

#include "artifact/config.h"
#include "base/checked.h"
#include "base/error.h"

typedef unsigned long long ull;

uint64_t tpv_cut_extent(const tpv_cut_t *cut) {
    uint64_t extent = cut->pad;
    for (uint32_t i = 0; i < cut->range_count; i++)
        extent += cut->range[i].count;
    return extent;
}

static void whole(tpv_cut_t *cut) {
    *cut = (tpv_cut_t){.axis = -1};
}

static void one_range(tpv_cut_t *cut, int axis, uint64_t start, uint64_t count) {
    *cut = (tpv_cut_t){.axis = axis, .range_count = 1, .range = {{.start = start, .count = count}}};
}

static const char *axis_word(const tpv_tensor_t *tensor, int axis) {
    return tensor->dims == 2 && axis == 1 ? "columns" : "rows";
}

static tpv_status_t cut_even(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, int axis, tpv_cut_t *cut) {
    uint64_t extent = tensor->shape[axis];
    if (extent % cutter->tp_size != 0)
        return tpv_error_set(TPV_ERR_PLAN, "%s: %llu %s do not divide by tp_size %llu", tensor->name, (ull)extent,
                             axis_word(tensor, axis), (ull)cutter->tp_size);
    uint64_t count = extent / cutter->tp_size;
    one_range(cut, axis, cutter->tp_rank * count, count);
    return TPV_OK;
}

/* The halves of the axis (gate and up) are cut each on its own. */
static tpv_status_t cut_packed(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, int axis, tpv_cut_t *cut) {
    uint64_t extent = tensor->shape[axis];
    if (extent % 2 != 0 || extent / 2 % cutter->tp_size != 0)
        return tpv_error_set(TPV_ERR_PLAN, "%s: two packed halves of %llu %s do not divide by tp_size %llu",
                             tensor->name, (ull)extent, axis_word(tensor, axis), (ull)cutter->tp_size);
    uint64_t half = extent / 2, count = half / cutter->tp_size;
    *cut = (tpv_cut_t){.axis = axis,
                       .range_count = 2,
                       .range = {{.start = cutter->tp_rank * count, .count = count},
                                 {.start = half + cutter->tp_rank * count, .count = count}}};
    return TPV_OK;
}

static tpv_status_t cut_heads(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, int axis,
                              const tpv_head_rule_t *heads, tpv_cut_t *cut) {
    uint64_t extent = tensor->shape[axis], size = cutter->tp_size, expected;
    if (heads->head_dim > 0 && (!tpv_mul_fits(heads->count, heads->head_dim, &expected) || expected != extent))
        return tpv_error_set(TPV_ERR_PLAN, "%s: %llu %s are not %llu heads of %llu", tensor->name, (ull)extent,
                             axis_word(tensor, axis), (ull)heads->count, (ull)heads->head_dim);
    if (extent % heads->count != 0)
        return tpv_error_set(TPV_ERR_PLAN, "%s: %llu %s do not divide into %llu heads", tensor->name, (ull)extent,
                             axis_word(tensor, axis), (ull)heads->count);
    if (heads->replicate && size > heads->count) {
        if (size % heads->count != 0)
            return tpv_error_set(TPV_ERR_PLAN, "%s: %llu heads cannot be replicated evenly over tp_size %llu",
                                 tensor->name, (ull)heads->count, (ull)size);
        uint64_t head_dim = extent / heads->count, replicas = size / heads->count;
        one_range(cut, axis, cutter->tp_rank / replicas * head_dim, head_dim);
        return TPV_OK;
    }
    if (heads->count % size != 0)
        return tpv_error_set(TPV_ERR_PLAN, "%s: %llu heads do not divide by tp_size %llu", tensor->name,
                             (ull)heads->count, (ull)size);
    return cut_even(cutter, tensor, axis, cut);
}

/* vLLM's VocabParallelEmbedding: pad the vocabulary first, then divide; padded rows are zeros. */
static tpv_status_t cut_vocab(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, tpv_cut_t *cut) {
    uint64_t rows = tensor->shape[0], padded;
    if (!tpv_add_fits(rows, TPV_VOCAB_PADDING - 1, &padded))
        return tpv_error_set(TPV_ERR_PLAN, "%s: %llu rows overflow", tensor->name, (ull)rows);
    padded -= padded % TPV_VOCAB_PADDING;
    if (padded % cutter->tp_size != 0)
        return tpv_error_set(TPV_ERR_PLAN, "%s: %llu rows, padded to %llu, do not divide by tp_size %llu", tensor->name,
                             (ull)rows, (ull)padded, (ull)cutter->tp_size);
    uint64_t count = padded / cutter->tp_size, start = cutter->tp_rank * count;
    uint64_t real = start >= rows ? 0 : rows - start < count ? rows - start : count;
    one_range(cut, 0, start, real);
    if (real == 0) cut->range_count = 0;
    cut->pad = count - real;
    return TPV_OK;
}

static tpv_status_t cut_weight(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, tpv_cut_kind_t kind,
                               tpv_cut_t *cut) {
    bool vector = tensor->dims == 1;
    int last = (int)tensor->dims - 1, rows = vector ? 0 : last - 1;
    const tpv_head_rule_t *heads = tpv_rules_heads(cutter->rules, tensor->name);
    bool by_heads = heads && heads->count > 0;
    whole(cut);
    if (tensor->dims == 0) return TPV_OK;
    switch (kind) {
    case TPV_CUT_REPLICATE:
        return TPV_OK;
    case TPV_CUT_COLWISE:
        return by_heads ? cut_heads(cutter, tensor, rows, heads, cut) : cut_even(cutter, tensor, rows, cut);
    case TPV_CUT_ROWWISE:
        if (vector) return TPV_OK;
        return by_heads ? cut_heads(cutter, tensor, last, heads, cut) : cut_even(cutter, tensor, last, cut);
    case TPV_CUT_PACKED_COLWISE:
        return cut_packed(cutter, tensor, rows, cut);
    case TPV_CUT_PACKED_ROWWISE:
        return vector ? TPV_OK : cut_packed(cutter, tensor, last, cut);
    case TPV_CUT_FIRST:
        return cut_even(cutter, tensor, 0, cut);
    case TPV_CUT_LAST:
        return cut_even(cutter, tensor, last, cut);
    case TPV_CUT_VOCAB:
        return cut_vocab(cutter, tensor, cut);
    }
    return tpv_error_set(TPV_ERR_INTERNAL, "%s: unknown cut", tensor->name);
}

/* ---- what follows a weight --------------------------------------------------------------------------------------- */

static uint64_t blocks_of(uint64_t extent, uint64_t block) {
    return extent / block + (extent % block != 0);
}

/* Is `scale` one number for each block of the last two axes of `weight`? */
static bool is_block_grid(const tpv_tensor_t *scale, const tpv_tensor_t *weight, const uint64_t block[2]) {
    if (block[0] == 0 || block[1] == 0 || scale->dims != weight->dims || weight->dims < 2) return false;
    for (uint32_t i = 0; i < weight->dims; i++) {
        uint64_t expected =
            i + 2 < weight->dims ? weight->shape[i] : blocks_of(weight->shape[i], block[i + 2 - weight->dims]);
        if (scale->shape[i] != expected) return false;
    }
    return true;
}

/* Is `tensor` one number for each output channel of `weight`: [.., out] or [.., out, 1]? */
static bool is_per_channel(const tpv_tensor_t *tensor, const tpv_tensor_t *weight) {
    if (weight->dims < 2) return weight->dims == 1 && tensor->dims == 1 && tensor->shape[0] == weight->shape[0];
    bool column = tensor->dims == weight->dims && tensor->shape[tensor->dims - 1] == 1;
    if (tensor->dims + 1 != weight->dims && !column) return false;
    for (uint32_t i = 0; i + 1 < weight->dims; i++)
        if (tensor->shape[i] != weight->shape[i]) return false;
    return true;
}

static tpv_status_t cut_block_scale(const tpv_cutter_t *cutter, const tpv_tensor_t *scale, const tpv_tensor_t *weight,
                                    const tpv_cut_t *weight_cut, tpv_cut_t *cut) {
    const uint64_t *block = cutter->config->weight_block_size;
    int rows = (int)weight->dims - 2;
    uint64_t end_of_rows = weight->shape[rows];
    *cut = *weight_cut;
    if (cut->axis >= rows) {
        uint64_t size = block[cut->axis - rows], extent = weight->shape[cut->axis];
        if (cut->pad > 0)
            return tpv_error_set(TPV_ERR_PLAN, "%s: the scales of a padded vocabulary cannot be cut", scale->name);
        for (uint32_t i = 0; i < cut->range_count; i++) {
            tpv_range_t *range = &cut->range[i];
            uint64_t start = range->start, end = start + range->count;
            if (start % size != 0 || (end % size != 0 && end != extent))
                return tpv_error_set(TPV_ERR_PLAN,
                                     "%s: the slice [%llu, %llu) of %s has an edge inside of a quantisation block of "
                                     "%llu %s (tp_size %llu)",
                                     scale->name, (ull)start, (ull)end, weight->name, (ull)size,
                                     axis_word(weight, cut->axis), (ull)cutter->tp_size);
            range->start = start / size;
            range->count = blocks_of(end, size) - range->start;
            if (cut->axis == rows) end_of_rows = end;
        }
    }
    cut->partial_block = end_of_rows % block[0] != 0;
    return TPV_OK;
}

static tpv_status_t cut_follower(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, const tpv_tensor_t *weight,
                                 tpv_cut_kind_t kind, tpv_cut_t *cut) {
    tpv_cut_t weight_cut;
    TPV_TRY(cut_weight(cutter, weight, kind, &weight_cut));
    if (is_per_channel(tensor, weight)) {
        *cut = weight_cut;
        if (weight->dims >= 2 && cut->axis == (int)weight->dims - 1) whole(cut);
        return TPV_OK;
    }
    TPV_TRY(tpv_config_need(cutter->config, TPV_CONFIG_WEIGHT_BLOCK_SIZE));
    if (is_block_grid(tensor, weight, cutter->config->weight_block_size))
        return cut_block_scale(cutter, tensor, weight, &weight_cut, cut);
    return tpv_error_set(TPV_ERR_PLAN,
                         "%s: its shape fits neither the rows of %s nor its quantisation blocks (weight_block_size in "
                         "config.json is [%llu, %llu])",
                         tensor->name, weight->name, (ull)cutter->config->weight_block_size[0],
                         (ull)cutter->config->weight_block_size[1]);
}

static bool has_one_element(const tpv_tensor_t *tensor) {
    for (uint32_t i = 0; i < tensor->dims; i++)
        if (tensor->shape[i] != 1) return false;
    return true;
}

tpv_status_t tpv_cut_tensor(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, const tpv_rule_t *rule,
                            tpv_cut_t *cut) {
    whole(cut);
    if (rule->kind == TPV_CUT_REPLICATE) return TPV_OK;
    const char *dot = strrchr(tensor->name, '.');
    const char *leaf = dot ? dot + 1 : tensor->name;
    /* GPTQ's and AWQ's "scales" go with a packed weight and are refused below. */
    bool bias = strcmp(leaf, "bias") == 0;
    bool scale = strstr(leaf, "scale") && strcmp(leaf, "scales") != 0;
    if (bias || scale) {
        if (scale && has_one_element(tensor)) return TPV_OK;
        char name[TPV_MAX_NAME + 8];
        snprintf(name, sizeof name, "%.*s.weight", dot ? (int)(dot - tensor->name) : 0, tensor->name);
        const tpv_tensor_t *weight = tpv_artifact_find(cutter->artifact, name);
        if (weight) return cut_follower(cutter, tensor, weight, rule->kind, cut);
        if (scale)
            return tpv_error_set(TPV_ERR_PLAN, "%s: there is no %s whose cut it could follow", tensor->name, name);
        return cut_weight(cutter, tensor, rule->kind, cut);
    }
    /* Any parameter that a rule names in full is cut as a weight, but of a module only "weight" is known to be one. */
    if (strcmp(leaf, "weight") == 0 || tpv_pattern_matches(rule->pattern, tensor->name))
        return cut_weight(cutter, tensor, rule->kind, cut);
    if (cutter->tp_size == 1) return TPV_OK;
    return tpv_error_set(TPV_ERR_PLAN,
                         "%s: cannot be cut %s: parameters of this kind (packed, GPTQ, AWQ, …) are only sent whole; "
                         "give a plan file that replicates them or has explicit slices",
                         tensor->name, rule->word);
}

#include "view/plan_cut.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "view/plan_quant.h"

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

const char *tpv_axis_word(const tpv_tensor_t *tensor, int axis) {
    return tensor->dims >= 2 && axis + 1 == (int)tensor->dims ? "columns" : "rows";
}

static void add_range(tpv_cut_t *cut, uint64_t start, uint64_t count) {
    if (count > 0) cut->range[cut->range_count++] = (tpv_range_t){.start = start, .count = count};
}

static tpv_status_t cut_even(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, int axis, bool uneven,
                             tpv_cut_t *cut) {
    uint64_t extent = tensor->shape[axis], size = cutter->tp_size;
    if (extent % size != 0 && !uneven)
        return tpv_error_set(TPV_ERR_PLAN, "%s: %llu %s do not divide by tp_size %llu", tensor->name, (ull)extent,
                             tpv_axis_word(tensor, axis), (ull)size);
    /* As torch.chunk and DTensor's Shard: the first ranks get what is rounded up, the last what is left. */
    uint64_t count = extent / size + (extent % size != 0);
    uint64_t start = cutter->tp_rank * count < extent ? cutter->tp_rank * count : extent;
    *cut = (tpv_cut_t){.axis = axis};
    add_range(cut, start, extent - start < count ? extent - start : count);
    return TPV_OK;
}

/* The weight of that name, which may be quantised. False when there is none of three axes, or none understood. */
static bool find_stack(const tpv_cutter_t *cutter, const char *stack, tpv_tensor_t *weight) {
    static const char *const behind[] = {"", "_blocks"};
    for (size_t i = 0; i < sizeof behind / sizeof *behind; i++) {
        char name[TPV_MAX_NAME + 32];
        tpv_module_t module;
        snprintf(name, sizeof name, "%s%s", stack, behind[i]);
        const tpv_tensor_t *found = tpv_artifact_find(cutter->artifact, name);
        if (!found) continue;
        tpv_module_of(cutter->artifact, cutter->quant, name, &module);
        *weight = module.quantised ? module.weight : *found;
        weight->name = NULL;
        return weight->dims == 3 && !*module.reason;
    }
    return false;
}

/* Do the first `length` bytes of a name end with `word`? */
static bool ends_with(const char *name, size_t length, const char *word) {
    size_t own = strlen(word);
    return length >= own && memcmp(name + length - own, word, own) == 0;
}

/*
 * Stacked experts are [experts, out, in] in some models and [experts, in, out] in others. What gate and up make of an
 * input is what down_proj takes: the axis of theirs that is cut must be twice as long as that of down_proj, which is on
 * the other side. Where the words are for the other order it never is.
 */
static tpv_status_t check_stack(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, int axis) {
    static const char *const stacks[] = {"gate_up_proj", "down_proj"};
    static const char leaf[] = ".weight";
    size_t length = strlen(tensor->name);
    bool has_leaf = ends_with(tensor->name, length, leaf);
    if (has_leaf) length -= sizeof leaf - 1;
    for (size_t i = 0; tensor->dims == 3 && i < 2; i++) {
        if (!ends_with(tensor->name, length, stacks[i])) continue;
        char name[TPV_MAX_NAME + 16];
        tpv_tensor_t other;
        bool gate = i == 0;
        snprintf(name, sizeof name, "%.*s%s%s", (int)(length - strlen(stacks[i])), tensor->name, stacks[1 - i],
                 has_leaf ? leaf : "");
        if (!find_stack(cutter, name, &other)) return TPV_OK;
        uint64_t steps = tensor->shape[axis], others = other.shape[3 - axis];
        if (gate ? steps == 2 * others : 2 * steps == others) return TPV_OK;
        bool rows = gate == (axis == 1); /* of [experts, out, in], as the word has it */
        return tpv_error_set(
            TPV_ERR_PLAN,
            "%s: axis %d has %llu steps, which are not %s the %llu of axis %d of %s: the experts are "
            "stacked as [experts, in, out] and not [experts, out, in], or the other way round; give a plan "
            "file with %s for gate_up_proj and %s for down_proj",
            tensor->name, axis, (ull)steps, gate ? "twice" : "half", (ull)others, 3 - axis, name,
            rows ? "packed_rowwise" : "packed_colwise", rows ? "colwise" : "rowwise");
    }
    return TPV_OK;
}

/* The halves of the axis (gate and up) are cut each on its own. */
static tpv_status_t cut_packed(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, int axis, tpv_cut_t *cut) {
    uint64_t extent = tensor->shape[axis];
    if (extent % 2 != 0 || extent / 2 % cutter->tp_size != 0)
        return tpv_error_set(TPV_ERR_PLAN, "%s: two packed halves of %llu %s do not divide by tp_size %llu",
                             tensor->name, (ull)extent, tpv_axis_word(tensor, axis), (ull)cutter->tp_size);
    uint64_t half = extent / 2, count = half / cutter->tp_size;
    *cut = (tpv_cut_t){.axis = axis};
    add_range(cut, cutter->tp_rank * count, count);
    add_range(cut, half + cutter->tp_rank * count, count);
    return TPV_OK;
}

/* vLLM's VocabParallelEmbedding: pad a vocabulary that does not divide, then divide; padded rows are zeros. */
static tpv_status_t cut_vocab(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, tpv_cut_t *cut) {
    uint64_t rows = tensor->shape[0], padded;
    if (rows % cutter->tp_size == 0) return cut_even(cutter, tensor, 0, false, cut);
    if (!tpv_add_fits(rows, TPV_VOCAB_PADDING - 1, &padded))
        return tpv_error_set(TPV_ERR_PLAN, "%s: %llu rows overflow", tensor->name, (ull)rows);
    padded -= padded % TPV_VOCAB_PADDING;
    if (padded % cutter->tp_size != 0)
        return tpv_error_set(TPV_ERR_PLAN, "%s: %llu rows, padded to %llu, do not divide by tp_size %llu", tensor->name,
                             (ull)rows, (ull)padded, (ull)cutter->tp_size);
    uint64_t count = padded / cutter->tp_size, start = cutter->tp_rank * count;
    uint64_t real = start >= rows ? 0 : rows - start < count ? rows - start : count;
    *cut = (tpv_cut_t){.axis = 0, .pad = count - real};
    add_range(cut, start, real);
    return TPV_OK;
}

/* nn.Embedding keeps its weight as [vocabulary, hidden]: "rowwise" cuts the vocabulary and "colwise" what a row has
 * (EmbeddingParallel in transformers). Such a module is known by its name. */
static bool is_embedding(const tpv_tensor_t *tensor) {
    static const char *const names[] = {"embed_tokens", "embed_in", "word_embeddings", "tok_embeddings", "embeddings",
                                        "wte",          "wpe",      "embed_positions", "token_embedding"};
    const char *end = strrchr(tensor->name, '.'), *part = end;
    if (!end || tensor->dims != 2) return false;
    while (part > tensor->name && part[-1] != '.')
        part--;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == (size_t)(end - part) && memcmp(names[i], part, (size_t)(end - part)) == 0) return true;
    return false;
}

static bool is_bias(const tpv_tensor_t *tensor) {
    const char *dot = strrchr(tensor->name, '.');
    return strcmp(dot ? dot + 1 : tensor->name, "bias") == 0;
}

/*
 * Is it a convolution's weight, [out, in, kernel…], and not a stack of matrices? Stacks have three axes, a bias for
 * each matrix, and as their last axis the inputs.
 */
static bool is_convolution(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor) {
    static const char leaf[] = ".weight";
    size_t length = strlen(tensor->name), module = length - (sizeof leaf - 1);
    char name[TPV_MAX_NAME + 1];
    if (tensor->dims < 3 || length < sizeof leaf || strcmp(tensor->name + module, leaf) != 0) return false;
    snprintf(name, sizeof name, "%.*s", (int)module, tensor->name);
    const char *part = strrchr(name, '.');
    if (tensor->dims > 3 || tensor->shape[2] == 1 || strstr(part ? part : name, "conv")) return true;
    snprintf(name, sizeof name, "%.*s.bias", (int)module, tensor->name);
    const tpv_tensor_t *bias = tpv_artifact_find(cutter->artifact, name);
    return bias && bias->dims == 1;
}

/* What must be told about a weight before it can be cut by `rule`. */
static tpv_status_t check_cuttable(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, const tpv_rule_t *rule,
                                   const tpv_layout_t *layout) {
    bool plain = rule->kind == TPV_CUT_COLWISE || rule->kind == TPV_CUT_ROWWISE;
    bool packed = rule->kind == TPV_CUT_PACKED_COLWISE || rule->kind == TPV_CUT_PACKED_ROWWISE;
    if ((plain || packed) && is_convolution(cutter, tensor))
        return tpv_error_set(TPV_ERR_PLAN,
                             "%s: \"%s\" is for matrices, and this is a convolution's weight [out, in, kernel]: "
                             "expected \"grouped_gemm\", which cuts axis 0, or \"replicate\"",
                             tensor->name, rule->word);
    if (plain && !rule->gathered && layout && layout->unknown)
        return tpv_error_set(
            TPV_ERR_PLAN,
            "%s: several projections in one tensor, and nothing tells how they lie in it: give it under "
            "\"packs\" or \"heads\" in a plan file (\"count\": 0 to cut it evenly), or a packed word "
            "for two halves",
            tensor->name);
    int last = (int)tensor->dims - 1;
    bool along_rows = rule->kind == TPV_CUT_COLWISE || rule->kind == TPV_CUT_PACKED_COLWISE;
    return plain || packed ? check_stack(cutter, tensor, along_rows ? last - 1 : last) : TPV_OK;
}

tpv_status_t tpv_cut_weight(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, const tpv_rule_t *rule,
                            tpv_cut_t *cut) {
    bool vector = tensor->dims == 1;
    int last = (int)tensor->dims - 1, rows = vector ? 0 : last - 1;
    tpv_cut_kind_t kind = rule->kind;
    whole(cut);
    if (tensor->dims == 0 || cutter->tp_size == 1 || kind == TPV_CUT_REPLICATE) return TPV_OK;
    if (is_embedding(tensor) && kind == TPV_CUT_ROWWISE) return cut_even(cutter, tensor, 0, true, cut);
    if (is_embedding(tensor) && kind == TPV_CUT_COLWISE) return cut_even(cutter, tensor, 1, true, cut);
    if (vector && is_bias(tensor) && (kind == TPV_CUT_ROWWISE || kind == TPV_CUT_PACKED_ROWWISE)) return TPV_OK;
    bool along_rows = kind == TPV_CUT_COLWISE || kind == TPV_CUT_PACKED_COLWISE;
    const tpv_layout_t *layout = kind != TPV_CUT_VOCAB ? tpv_rules_layout(cutter->rules, tensor->name) : NULL;
    TPV_TRY(check_cuttable(cutter, tensor, rule, layout));
    if (layout && layout->part_count > 0 && !(rule->gathered && layout->from_defaults))
        return tpv_layout_cut(cutter, tensor, kind == TPV_CUT_FIRST ? 0 : along_rows ? rows : last, layout, cut);
    switch (kind) {
    case TPV_CUT_REPLICATE:
    case TPV_CUT_REFUSED:
        return TPV_OK;
    case TPV_CUT_COLWISE:
        return cut_even(cutter, tensor, rows, rule->gathered, cut);
    case TPV_CUT_ROWWISE:
        return cut_even(cutter, tensor, last, rule->gathered, cut);
    case TPV_CUT_PACKED_COLWISE:
        /* PackedColwiseParallel in transformers cuts a vector as any other, PackedRowwiseParallel none. */
        if (vector && cutter->rules->transformers) return cut_even(cutter, tensor, rows, true, cut);
        return cut_packed(cutter, tensor, rows, cut);
    case TPV_CUT_PACKED_ROWWISE:
        if (vector && cutter->rules->transformers) return TPV_OK;
        return cut_packed(cutter, tensor, last, cut);
    case TPV_CUT_FIRST:
        return cut_even(cutter, tensor, 0, rule->gathered, cut);
    case TPV_CUT_LAST:
        return cut_even(cutter, tensor, last, rule->gathered, cut);
    case TPV_CUT_VOCAB:
        return cut_vocab(cutter, tensor, cut);
    }
    return tpv_error_set(TPV_ERR_INTERNAL, "%s: unknown cut", tensor->name);
}

/* A bias of as many numbers as the weight has rows goes with the rows. */
static tpv_status_t cut_bias(const tpv_cutter_t *cutter, const tpv_tensor_t *bias, const tpv_tensor_t *weight,
                             const tpv_rule_t *rule, tpv_cut_t *cut) {
    tpv_cut_t weight_cut;
    uint32_t rows = weight->dims < 2 ? 0 : weight->dims - 2;
    TPV_TRY(tpv_cut_weight(cutter, weight, rule, &weight_cut));
    bool fits = bias->dims == rows + 1;
    for (uint32_t i = 0; fits && i <= rows; i++)
        fits = bias->shape[i] == weight->shape[i];
    if (!fits)
        return tpv_error_set(TPV_ERR_PLAN, "%s: its shape does not fit the rows of %s", bias->name, weight->name);
    *cut = weight_cut;
    if (weight->dims >= 2 && cut->axis == (int)weight->dims - 1) whole(cut);
    return TPV_OK;
}

bool tpv_is_lone_scale(const tpv_tensor_t *tensor) {
    const char *dot = strrchr(tensor->name, '.');
    for (uint32_t i = 0; i < tensor->dims; i++)
        if (tensor->shape[i] != 1) return false;
    return dot && strstr(dot, "_scale");
}

bool tpv_rule_names_in_full(const tpv_rules_t *rules, const tpv_rule_t *rule, const char *tensor) {
    if (!strchr(tensor, '.')) return true;
    const char *dot = strrchr(rule->pattern, '.');
    return !strpbrk(dot ? dot : rule->pattern, "*?") && tpv_rules_match(rules, rule->pattern, tensor);
}

static tpv_status_t cut_plain(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, const tpv_rule_t *rule,
                              tpv_cut_t *cut) {
    const char *dot = strrchr(tensor->name, '.');
    const char *leaf = dot ? dot + 1 : tensor->name;
    if (tpv_rule_names_in_full(cutter->rules, rule, tensor->name)) return tpv_cut_weight(cutter, tensor, rule, cut);
    if (strcmp(leaf, "weight") == 0) return tpv_cut_weight(cutter, tensor, rule, cut);
    if (strcmp(leaf, "bias") == 0) {
        char name[TPV_MAX_NAME + 8];
        snprintf(name, sizeof name, "%.*s.weight", dot ? (int)(dot - tensor->name) : 0, tensor->name);
        const tpv_tensor_t *weight = tpv_artifact_find(cutter->artifact, name);
        return weight ? cut_bias(cutter, tensor, weight, rule, cut) : tpv_cut_weight(cutter, tensor, rule, cut);
    }
    if (cutter->tp_size == 1 || tpv_is_lone_scale(tensor)) return TPV_OK;
    return tpv_error_set(TPV_ERR_PLAN,
                         "%s: cannot be cut %s: it is neither weight nor bias of its module: name it in full in a plan "
                         "file, or replicate it",
                         tensor->name, rule->word);
}

tpv_status_t tpv_cut_tensor(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, const tpv_rule_t *rule,
                            tpv_cut_t *cut) {
    tpv_module_t module;
    whole(cut);
    if (rule->kind == TPV_CUT_REPLICATE) return TPV_OK;
    if (rule->kind == TPV_CUT_REFUSED && cutter->tp_size > 1)
        return tpv_error_set(TPV_ERR_PLAN, "%s: rule \"%s\": \"%s\" %s: expected a word that cuts or replicates",
                             tensor->name, rule->given, rule->word, rule->refused);
    /* Of a module with two halves transformers cuts each parameter by itself, and a bias has no halves for it. */
    bool packed = rule->kind == TPV_CUT_PACKED_COLWISE || rule->kind == TPV_CUT_PACKED_ROWWISE;
    if (cutter->rules->transformers && packed && tensor->dims == 1 && is_bias(tensor))
        return tpv_cut_weight(cutter, tensor, rule, cut);
    tpv_module_of(cutter->artifact, cutter->quant, tensor->name, &module);
    return module.quantised ? tpv_quant_cut(cutter, &module, tensor, rule, cut) : cut_plain(cutter, tensor, rule, cut);
}

#include "view/plan_explain.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "view/plan_experts.h"
#include "view/plan_near.h"

typedef unsigned long long ull;

#define MAX_TEXT 1024

/* A text that grows up to its room. */
typedef struct {
    char text[MAX_TEXT];
    size_t length;
} text_t;

__attribute__((format(printf, 2, 3))) static void say(text_t *text, const char *format, ...) {
    va_list list;
    va_start(list, format);
    int added = vsnprintf(text->text + text->length, MAX_TEXT - text->length, format, list);
    va_end(list);
    if (added > 0)
        text->length += (size_t)added < MAX_TEXT - text->length ? (size_t)added : MAX_TEXT - 1 - text->length;
}

/* ---- why ----------------------------------------------------------------------------------------------------------
 */

static void say_part(const tpv_cutter_t *cutter, const tpv_part_t *part, const tpv_scope_t *scope, text_t *text) {
    uint64_t count, ranks = cutter->tp_size;
    if (part->whole) {
        say(text, "a part that every rank gets whole");
    } else if (!part->count || !tpv_value_of(part->count, scope, &count)) {
        say(text, "a part in %llu equal shares", (ull)ranks);
    } else {
        say(text, "%llu heads", (ull)count);
        if (json_is_string(part->count)) say(text, " (%s)", json_string_value(part->count));
        if (ranks > count)
            say(text, ", each for %llu ranks", (ull)(ranks / count));
        else
            say(text, ", %llu for each rank", (ull)(count / ranks));
    }
}

static void say_layout(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, const tpv_layout_t *layout,
                       text_t *text) {
    tpv_scope_t scope = tpv_rules_scope(cutter->rules, layout->section, tensor->name);
    if (layout->part_count > 1) say(text, "several in one tensor, each cut by itself: ");
    for (uint32_t i = 0; i < layout->part_count; i++) {
        say(text, "%s", i ? "; " : "");
        say_part(cutter, &layout->part[i], &scope, text);
    }
    say(text, " (\"%s\")", layout->pattern);
}

/* The weight that a bias or scale of a module goes with; NULL when the rule speaks of the parameter itself. */
static const tpv_tensor_t *followed(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, const tpv_rule_t *rule) {
    char name[TPV_MAX_NAME + 8];
    const char *dot = strrchr(tensor->name, '.');
    if (!dot || strcmp(dot, ".weight") == 0 || tpv_rules_match(cutter->rules, rule->pattern, tensor->name)) return NULL;
    snprintf(name, sizeof name, "%.*s.weight", (int)(dot - tensor->name), tensor->name);
    return tpv_artifact_find(cutter->artifact, name);
}

static void say_shares(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, const tpv_rule_t *rule,
                       const tpv_cut_t *cut, text_t *text) {
    uint64_t extent = tensor->shape[cut->axis], ranks = cutter->tp_size;
    if (rule->kind == TPV_CUT_PACKED_COLWISE || rule->kind == TPV_CUT_PACKED_ROWWISE) {
        say(text, cut->range_count == 2 ? "two halves (gate and up), each in %llu shares" : "%llu shares", (ull)ranks);
    } else if (rule->kind == TPV_CUT_VOCAB && extent % ranks != 0) {
        uint64_t padded = (extent + TPV_VOCAB_PADDING - 1) / TPV_VOCAB_PADDING * TPV_VOCAB_PADDING;
        say(text, "%llu rows do not divide by %llu: padded to %llu first", (ull)extent, (ull)ranks, (ull)padded);
    } else if (extent % ranks != 0) {
        say(text, "%llu in %llu shares, of which the last have less", (ull)extent, (ull)ranks);
    } else {
        say(text, "%llu in %llu equal shares", (ull)extent, (ull)ranks);
    }
}

static void say_why(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, const tpv_rule_t *rule,
                    const tpv_cut_t *cut, text_t *text) {
    if (cut->told) {
        say(text, "it tells the shape of the rank's part of the weight");
    } else if (cutter->tp_size == 1 && cutter->experts->tp_size > 1) {
        say(text, "experts are whole");
    } else if (cutter->tp_size == 1) {
        say(text, "with tp_size 1 every tensor is whole");
    } else if (cut->left_whole) {
        say(text, "\"%s\" would cut it, but %s", rule->word, cutter->whole->reason);
    } else if (!rule && tpv_is_lone_scale(tensor)) {
        say(text, "a scale of one element is whole");
    } else if (!rule) {
        say(text, "no rule matches it, and what no rule matches is whole (\"default\": \"replicate\")");
    } else if (rule->kind == TPV_CUT_REPLICATE) {
        say(text, "\"%s\" leaves weights whole", rule->word);
    } else {
        const tpv_tensor_t *weight = followed(cutter, tensor, rule);
        if (weight) say(text, "it goes with %s: ", weight->name);
        if (cut->axis < 0)
            say(text,
                weight ? "it has nothing along the axis that \"%s\" cuts" : "\"%s\" leaves such a parameter whole",
                rule->word);
        else if (cut->layout)
            say_layout(cutter, tensor, cut->layout, text);
        else
            say_shares(cutter, tensor, rule, cut, text);
    }
}

/* ---- from where to where ------------------------------------------------------------------------------------------
 */

static json_t *numbers(const uint64_t *values, uint32_t count) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < count; i++)
        json_array_append_new(list, json_integer((json_int_t)values[i]));
    return list;
}

static json_t *piece_json(const tpv_piece_t *piece) {
    uint64_t sizes[TPV_MAX_DIMS], from[TPV_MAX_DIMS], to[TPV_MAX_DIMS];
    for (uint32_t i = 0; i < piece->dims; i++) {
        sizes[i] = piece->dim[i].size;
        from[i] = piece->dim[i].from;
        to[i] = piece->dim[i].to;
    }
    return json_pack("{s:o, s:o, s:I, s:{s:o, s:I}}", "sizes", numbers(sizes, piece->dims), "strides",
                     numbers(from, piece->dims), "offset", (json_int_t)piece->from, "to", "strides",
                     numbers(to, piece->dims), "offset", (json_int_t)piece->to);
}

/* Every output that has something of the tensor, and what. */
static json_t *outputs_json(const tpv_spec_t *spec, uint32_t tensor) {
    json_t *list = json_array();
    for (size_t i = 0; i < spec->output_count; i++) {
        const tpv_spec_output_t *output = &spec->outputs[i];
        json_t *pieces = json_array();
        for (size_t k = 0; k < output->piece_count; k++)
            if (output->pieces[k].tensor == tensor) json_array_append_new(pieces, piece_json(&output->pieces[k]));
        if (json_array_size(pieces) == 0) {
            json_decref(pieces);
            continue;
        }
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:o, s:I, s:I, s:o}", "name", output->name, "dtype",
                            tpv_dtype_name(output->dtype), "shape", numbers(output->shape, output->dims), "offset",
                            (json_int_t)output->offset, "bytes", (json_int_t)output->bytes, "pieces", pieces));
    }
    return list;
}

static json_t *rule_json(const tpv_cutter_t *cutter, const tpv_rule_t *rule) {
    const tpv_rules_t *rules = cutter->rules;
    char plan[TPV_MAX_NAME + 16];
    if (!rule) return json_null();
    snprintf(plan, sizeof plan, "family %s", rules->family ? rules->family : "");
    json_t *json = json_pack("{s:s, s:s, s:s}", "pattern", rule->given, "word", rule->word, "plan",
                             rules->family         ? plan
                             : rules->transformers ? "transformers' plan"
                                                   : "plan file");
    if (strcmp(rule->given, rule->pattern) != 0) json_object_set_new(json, "disk", json_string(rule->pattern));
    return json;
}

static json_t *ranges_json(const tpv_cut_t *cut) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < cut->range_count; i++) {
        uint64_t bounds[2] = {cut->range[i].start, cut->range[i].start + cut->range[i].count};
        json_array_append_new(list, numbers(bounds, 2));
    }
    return list;
}

static tpv_status_t explain_tensor(const tpv_artifact_t *artifact, const tpv_cutter_t *cutter, const tpv_spec_t *spec,
                                   uint32_t index, json_t *list) {
    const tpv_tensor_t *tensor = tpv_artifact_tensor(artifact, index);
    const tpv_rule_t *rule = NULL;
    tpv_cut_t cut = {.axis = -1};
    text_t why = {.text = ""};
    if (!cutter) {
        say(&why, "the plan is an explicit view, which says so");
    } else {
        tpv_left_whole_t left_whole = {0};
        tpv_cutter_t own = *cutter; /* what the plan has counted stays as it is */
        own.whole = &left_whole;
        tpv_expert_part_t part;
        TPV_TRY(tpv_rules_find(own.rules, tensor->name, &rule));
        TPV_TRY(tpv_experts_turn(&own, tensor, &part));
        if (part.expert && own.experts->size > 1)
            say(&why, "group %llu of %llu has experts [%llu, %llu): ", (ull)own.experts->rank, (ull)own.experts->size,
                (ull)part.start, (ull)(part.start + part.count));
        bool divided = part.stacked && rule && rule->kind == TPV_CUT_FIRST; /* which is what the rule asks for */
        if (rule && !divided) TPV_TRY(tpv_cut_tensor(&own, tensor, rule, &cut));
        say_why(&own, tensor, rule, &cut, &why);
    }
    json_t *axis = cut.axis < 0 ? json_null() : json_integer(cut.axis);
    json_t *json = json_pack("{s:s, s:s, s:o, s:o, s:s, s:o, s:o, s:I, s:o}", "tensor", tensor->name, "dtype",
                             tpv_dtype_name(tensor->dtype), "shape", numbers(tensor->shape, tensor->dims), "rule",
                             cutter ? rule_json(cutter, rule) : json_null(), "why", why.text, "axis", axis, "ranges",
                             ranges_json(&cut), "zeros", (json_int_t)cut.pad, "outputs", outputs_json(spec, index));
    return json && json_array_append_new(list, json) == 0
               ? TPV_OK
               : tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to explain %s", tensor->name);
}

/* ---- what was asked -----------------------------------------------------------------------------------------------
 */

static const tpv_spec_output_t *find_output(const tpv_spec_t *spec, const char *name) {
    for (size_t i = 0; i < spec->alias_count; i++)
        if (strcmp(spec->aliases[i].name, name) == 0) name = spec->aliases[i].target;
    for (size_t i = 0; i < spec->output_count; i++)
        if (strcmp(spec->outputs[i].name, name) == 0) return &spec->outputs[i];
    return NULL;
}

/* Each tensor that an output has pieces of, once. */
static tpv_status_t explain_output(const tpv_artifact_t *artifact, const tpv_cutter_t *cutter, const tpv_spec_t *spec,
                                   const tpv_spec_output_t *output, json_t *list) {
    bool *seen = calloc(tpv_artifact_tensor_count(artifact) + 1, sizeof *seen);
    if (!seen) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to explain %s", output->name);
    tpv_status_t status = TPV_OK;
    for (size_t i = 0; i < output->piece_count && status == TPV_OK; i++) {
        uint32_t tensor = output->pieces[i].tensor;
        if (!tpv_piece_copies(tensor) || seen[tensor]) continue;
        seen[tensor] = true;
        status = explain_tensor(artifact, cutter, spec, tensor, list);
    }
    free(seen);
    return status;
}

tpv_status_t tpv_explain(const tpv_artifact_t *artifact, const tpv_cutter_t *cutter, const tpv_spec_t *spec,
                         const char *name, json_t **explanation) {
    uint32_t index;
    bool is_tensor = tpv_spec_find_tensor(artifact, name, &index);
    const tpv_spec_output_t *output = is_tensor ? NULL : find_output(spec, name);
    *explanation = NULL;
    if (!is_tensor && !output) return tpv_near_error(artifact, spec, name);
    json_t *list = json_array();
    tpv_status_t status = is_tensor ? explain_tensor(artifact, cutter, spec, index, list)
                                    : explain_output(artifact, cutter, spec, output, list);
    if (status == TPV_OK) *explanation = json_pack("{s:s, s:O}", "name", name, "tensors", list);
    json_decref(list);
    if (status == TPV_OK && !*explanation) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to explain %s", name);
    return status;
}

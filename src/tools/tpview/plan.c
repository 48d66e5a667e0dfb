#include <stdio.h>

#include "base/error.h"
#include "tools/tpview/command.h"

static const char help[] =
    "Usage: tpview plan (--checkpoint DIR | [--source ADDR] --artifact NAME[@VERSION])\n"
    "                   --tp-size N --tp-rank R [--plan FILE] [--fuse] [--json]\n"
    "                   [--explain NAME]\n"
    "       tpview plan --families [--json]\n"
    "\n"
    "Show what rank R of N needs: each output tensor with its shape, and the totals. Reads headers only.\n"
    "\n"
    "  --plan FILE         TP rules or an explicit view spec as JSON (docs/views.md); default: the built-in\n"
    "                      plan of the model's family\n"
    "  --plan hf:FILE      transformers' own base_model_tp_plan or tp_plan as JSON, cut as transformers does\n"
    "  --explain NAME      of one tensor of the checkpoint, or output of the view: by which rule it is cut, why,\n"
    "                      from where to where\n"
    "  --ep-size N, --ep-rank R\n"
    "                      the rank has the experts of group R of N, each whole\n"
    "  --expert-tp-size N, --expert-tp-rank R\n"
    "                      cut each expert for rank R of N (default: as all else, with --ep-size not at all)\n"
    "  --families          list the built-in plans and the model_types that each is for\n"
    "  --fuse              q, k, v into qkv_proj and gate, up into gate_up_proj; says of each that stays "
    "why\n" TPV_HELP_CONNECTION "  --deadline SECONDS  give up on the service after that (default: none)\n"
    "  --json              print JSON, with the canonical view spec\n"
    "\n"
    "Example:\n"
    "  tpview plan --checkpoint /models/qwen3-14b --tp-size 4 --tp-rank 0 --fuse\n"
    "  tpview plan --checkpoint /models/qwen3-14b --tp-size 4 --tp-rank 1 \\\n"
    "              --explain model.layers.0.self_attn.k_proj.weight\n";

static json_t *shape_json(const tpv_output_t *output) {
    json_t *shape = json_array();
    for (uint32_t i = 0; i < output->dims; i++)
        json_array_append_new(shape, json_integer((json_int_t)output->shape[i]));
    return shape;
}

static void print_json(const tpv_arguments_t *arguments, const tpv_artifact_t *artifact, const tpv_view_t *view) {
    tpv_view_stats_t stats = tpv_view_stats(view);
    json_t *outputs = json_array();
    for (size_t i = 0; i < tpv_view_output_count(view); i++) {
        const tpv_output_t *output = tpv_view_output(view, i);
        json_array_append_new(outputs, json_pack("{s:s, s:s, s:o, s:I, s:I, s:s*}", "name", output->name, "dtype",
                                                 tpv_dtype_name(output->dtype), "shape", shape_json(output), "offset",
                                                 (json_int_t)output->offset, "bytes", (json_int_t)output->bytes,
                                                 "not_fused", tpv_view_apart(view, i)));
    }
    tpv_cli_print_json(
        json_pack("{s:i, s:i, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "tp_rank", (int)arguments->options.tp_rank,
                  "tp_size", (int)arguments->options.tp_size, "index_digest", tpv_artifact_index_digest(artifact),
                  "view_id", tpv_view_id(view), "tensors", (json_int_t)stats.outputs, "bytes", (json_int_t)stats.bytes,
                  "zero_bytes", (json_int_t)stats.zeros, "records", (json_int_t)stats.records, "runs",
                  (json_int_t)stats.runs, "outputs", outputs, "view", json_loads(tpv_view_json(view), 0, NULL)));
}

static void print_table(const tpv_arguments_t *arguments, const tpv_view_t *view) {
    tpv_view_stats_t stats = tpv_view_stats(view);
    for (size_t i = 0; i < tpv_view_output_count(view); i++) {
        const tpv_output_t *output = tpv_view_output(view, i);
        char shape[TPV_MAX_DIMS * 24] = "";
        int length = 0;
        for (uint32_t k = 0; k < output->dims; k++)
            length += snprintf(shape + length, sizeof shape - (size_t)length, "%s%llu", k ? ", " : "",
                               (unsigned long long)output->shape[k]);
        const char *apart = tpv_view_apart(view, i);
        printf("%-72s %-8s [%s]%s%s\n", tpv_cli_text(output->name), tpv_dtype_name(output->dtype), shape,
               apart ? "  not fused: " : "", apart ? apart : "");
    }
    const char *name, *target;
    for (size_t i = 0; tpv_view_alias(view, i, &name, &target); i++)
        printf("%-72s = %s\n", tpv_cli_text(name), tpv_cli_text(target));
    if (arguments->options.ep_size > 1)
        printf("experts of group %u of %u\n", arguments->options.ep_rank, arguments->options.ep_size);
    printf("rank %u of %u: %llu tensors, %llu bytes (%.3f GiB), %llu records, %llu runs, view_id %s\n",
           arguments->options.tp_rank, arguments->options.tp_size, (unsigned long long)stats.outputs,
           (unsigned long long)stats.bytes, (double)stats.bytes / (double)(1 << 30), (unsigned long long)stats.records,
           (unsigned long long)stats.runs, tpv_view_id(view));
}

static void print_families(bool as_json) {
    json_t *list = json_array();
    const char *name, *text;
    for (size_t i = 0; (name = tpv_plan_family(i, &text)); i++) {
        json_t *plan = json_loads(text, 0, NULL), *types = json_object_get(plan, "model_types"), *type;
        size_t index;
        if (as_json) json_array_append_new(list, json_pack("{s:s, s:O}", "family", name, "model_types", types));
        if (!as_json) printf("%-24s", name);
        json_array_foreach(types, index, type) if (!as_json) printf("%s%s", index ? ", " : "", json_string_value(type));
        if (!as_json) putchar('\n');
        json_decref(plan);
    }
    if (as_json)
        tpv_cli_print_json(list);
    else
        json_decref(list);
}

static tpv_status_t plan(tpv_arguments_t *arguments) {
    tpv_source_t *source = NULL;
    tpv_artifact_t *artifact = NULL;
    tpv_view_t *view = NULL;
    if (arguments->families) {
        print_families(arguments->json);
        return TPV_OK;
    }
    TPV_TRY(tpv_arguments_plan(arguments));
    TPV_TRY(tpv_arguments_open(arguments, &source, &artifact));
    tpv_status_t status =
        arguments->explain ? tpv_explain_print(arguments, artifact) : tpv_arguments_view(arguments, artifact, &view);
    if (view && arguments->json) print_json(arguments, artifact, view);
    if (view && !arguments->json) print_table(arguments, view);
    tpv_view_free(view);
    tpv_artifact_close(artifact);
    tpv_source_close(source);
    return status;
}

int tpv_command_plan(int argc, char **argv) {
    tpv_arguments_t arguments;
    int code = tpv_arguments_parse(&arguments, argc, argv,
                                   TPV_OPTIONS_CONNECTION
                                   " checkpoint artifact tp-size tp-rank ep-size ep-rank expert-tp-size expert-tp-rank "
                                   "plan fuse explain families deadline json",
                                   NULL, help);
    if (code < 0) {
        tpv_status_t status = plan(&arguments);
        code = status == TPV_OK ? TPV_EXIT_OK : tpv_cli_fail(status);
    }
    tpv_arguments_clear(&arguments);
    return code;
}

#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "tools/tpview/command.h"

static const char help[] = "Usage: tpview ls [OPTION...]\n"
                           "\n"
                           "List the artifacts of a service.\n"
                           "\n" TPV_HELP_CONNECTION "  --deadline SECONDS  give up after that (default: none)\n"
                           "  --json              print JSON\n"
                           "\n"
                           "Example:\n"
                           "  tpview ls\n";

static void print_table(const json_t *list) {
    size_t i;
    const json_t *entry;
    printf("%-40s %-32s %8s %16s\n", "artifact", "artifact_id", "tensors", "bytes");
    json_array_foreach(list, i, entry) {
        const char *name = "", *version = "", *id = "";
        json_int_t tensors = 0, bytes = 0;
        json_unpack((json_t *)(uintptr_t)entry, "{s:s, s:s, s:s, s:I, s:I}", "name", &name, "version", &version,
                    "artifact_id", &id, "tensors", &tensors, "bytes", &bytes);
        char label[256];
        snprintf(label, sizeof label, "%s@%s", name, version);
        printf("%-40s %-32s %8lld %16lld\n", tpv_cli_text(label), tpv_cli_text(id), (long long)tensors,
               (long long)bytes);
    }
}

static tpv_status_t list(tpv_arguments_t *arguments) {
    tpv_source_t *source = NULL;
    char *text = NULL;
    TPV_TRY(tpv_arguments_source(arguments, &source));
    tpv_status_t status = tpv_source_get(source, "/v1/artifacts", arguments->deadline_s, &text);
    tpv_source_close(source);
    if (status != TPV_OK) return status;
    json_t *root = json_loads(text, 0, NULL);
    free(text);
    if (!root) return tpv_error_set(TPV_ERR_PROTOCOL, "the source's answer is not JSON");
    if (arguments->json) {
        tpv_cli_print_json(root);
        return TPV_OK;
    }
    print_table(json_object_get(root, "artifacts"));
    json_decref(root);
    return TPV_OK;
}

int tpv_command_ls(int argc, char **argv) {
    tpv_arguments_t arguments;
    int code = tpv_arguments_parse(&arguments, argc, argv, TPV_OPTIONS_CONNECTION " deadline json", NULL, help);
    if (code < 0) {
        tpv_status_t status = list(&arguments);
        code = status == TPV_OK ? TPV_EXIT_OK : tpv_cli_fail(status);
    }
    tpv_arguments_clear(&arguments);
    return code;
}

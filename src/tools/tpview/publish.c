#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "tools/tpview/command.h"

static const char help[] =
    "Usage: tpview publish [OPTION...] NAME@VERSION=DIR\n"
    "\n"
    "Have the running service offer one more checkpoint; DIR is a path on its host. Cached exports of\n"
    "older versions of NAME are the first to go.\n"
    "\n" TPV_HELP_CONNECTION "  --deadline SECONDS  give up after that (default: none)\n"
    "  --json              print JSON\n"
    "\n"
    "Example:\n"
    "  tpview publish qwen3-14b@2=/models/qwen3-14b-step200\n";

static void print_done(const char *what) {
    char label[256];
    snprintf(label, sizeof label, "%.*s", (int)strcspn(what, "="), what);
    tpv_cli_print_json(json_pack("{s:s}", "published", label));
}

static tpv_status_t publish(tpv_arguments_t *arguments, const char *what) {
    tpv_source_t *source = NULL;
    TPV_TRY(tpv_arguments_source(arguments, &source));
    tpv_status_t status = tpv_source_publish(source, what, arguments->deadline_s);
    tpv_source_close(source);
    if (status == TPV_OK && arguments->json) print_done(what);
    return status;
}

int tpv_command_publish(int argc, char **argv) {
    tpv_arguments_t arguments;
    int code = tpv_arguments_parse(&arguments, argc, argv, TPV_OPTIONS_CONNECTION " deadline json",
                                   "NAME@VERSION=DIR behind the options", help);
    if (code < 0) {
        tpv_status_t status = publish(&arguments, argv[arguments.first]);
        code = status == TPV_OK ? TPV_EXIT_OK : tpv_cli_fail(status);
    }
    tpv_arguments_clear(&arguments);
    return code;
}

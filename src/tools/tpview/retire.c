#include "base/error.h"
#include "tools/tpview/command.h"

static const char help[] =
    "Usage: tpview retire [OPTION...] NAME@VERSION\n"
    "\n"
    "Have the running service stop offering a checkpoint. Fetches in flight end as usual; then its exports\n"
    "are freed.\n"
    "\n" TPV_HELP_CONNECTION "  --deadline SECONDS  give up after that (default: none)\n"
    "  --json              print JSON\n"
    "\n"
    "Example:\n"
    "  tpview retire qwen3-14b@1\n";

static tpv_status_t retire(tpv_arguments_t *arguments, const char *what) {
    tpv_source_t *source = NULL;
    TPV_TRY(tpv_arguments_source(arguments, &source));
    tpv_status_t status = tpv_source_retire(source, what, arguments->deadline_s);
    tpv_source_close(source);
    if (status == TPV_OK && arguments->json) tpv_cli_print_json(json_pack("{s:s}", "retired", what));
    return status;
}

int tpv_command_retire(int argc, char **argv) {
    tpv_arguments_t arguments;
    int code = tpv_arguments_parse(&arguments, argc, argv, TPV_OPTIONS_CONNECTION " deadline json",
                                   "NAME@VERSION behind the options", help);
    if (code < 0) {
        tpv_status_t status = retire(&arguments, argv[arguments.first]);
        code = status == TPV_OK ? TPV_EXIT_OK : tpv_cli_fail(status);
    }
    tpv_arguments_clear(&arguments);
    return code;
}

#include <stdio.h>

#include "base/error.h"
#include "tools/common/progress.h"
#include "tools/tpview/command.h"

static const char help[] = "Usage: tpview verify --checkpoint DIR --tp-size N --tp-rank R [--plan FILE] [--fuse]\n"
                           "                     [--ep-size N --ep-rank R] [--expert-tp-size N --expert-tp-rank R]\n"
                           "                     [--json] FILE.safetensors\n"
                           "\n"
                           "Cut rank R's view of the checkpoint here and compare it with FILE: names, dtypes, shapes\n"
                           "and every byte. Names the first difference.\n"
                           "\n"
                           "Example:\n"
                           "  tpview verify --checkpoint /models/qwen3-14b --tp-size 4 --tp-rank 0 rank0.safetensors\n";

static tpv_status_t verify(tpv_arguments_t *arguments, const char *path) {
    tpv_artifact_t *artifact = NULL;
    tpv_view_t *view = NULL;
    if (!arguments->checkpoint) return tpv_error_set(TPV_ERR_ARGUMENT, "--checkpoint DIR is needed");
    TPV_TRY(tpv_arguments_plan(arguments));
    tpv_cli_raise_descriptor_limit();
    TPV_TRY(tpv_artifact_open(arguments->checkpoint, &artifact));
    tpv_status_t status = tpv_arguments_view(arguments, artifact, &view);
    tpv_progress_bar_t bar = tpv_progress_bar("verify");
    if (status == TPV_OK) status = tpv_verify_file(artifact, view, path, tpv_progress_draw, &bar);
    tpv_progress_end(&bar);
    if (status == TPV_OK) {
        tpv_view_stats_t stats = tpv_view_stats(view);
        if (arguments->json)
            tpv_cli_print_json(json_pack("{s:s, s:i, s:i, s:I, s:I, s:b}", "file", tpv_cli_text(path), "tp_rank",
                                         (int)arguments->options.tp_rank, "tp_size", (int)arguments->options.tp_size,
                                         "tensors", (json_int_t)stats.outputs, "bytes", (json_int_t)stats.bytes, "same",
                                         1));
        else
            printf("%s: %llu tensors, %llu bytes, all the same\n", tpv_cli_text(path),
                   (unsigned long long)stats.outputs, (unsigned long long)stats.bytes);
    }
    tpv_view_free(view);
    tpv_artifact_close(artifact);
    return status;
}

int tpv_command_verify(int argc, char **argv) {
    tpv_arguments_t arguments;
    int code =
        tpv_arguments_parse(&arguments, argc, argv,
                            "checkpoint tp-size tp-rank ep-size ep-rank expert-tp-size expert-tp-rank plan fuse json",
                            "FILE.safetensors behind the options", help);
    if (code < 0) {
        tpv_status_t status = verify(&arguments, argv[arguments.first]);
        code = status == TPV_OK ? TPV_EXIT_OK : tpv_cli_fail(status);
    }
    tpv_arguments_clear(&arguments);
    return code;
}

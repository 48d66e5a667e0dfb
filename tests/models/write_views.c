/*
 * Views of one checkpoint, cut in this process:  write_views CHECKPOINT <requests >answers
 *
 * A request is a line "TP_SIZE TP_RANK FUSE EP_SIZE EP_RANK EXPERT_TP_SIZE EXPERT_TP_RANK PLAN"; PLAN is what --plan
 * takes, or "-" for the family's own. An answer is a line "ok BYTES" and so many bytes, a safetensors file, or a line
 * "error TEXT".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "tools/common/plan_option.h"
#include "tpview/artifact.h"
#include "tpview/view.h"

static tpv_status_t answer(const tpv_view_t *view, const tpv_artifact_t *artifact) {
    void *header = NULL;
    size_t header_bytes = 0;
    uint64_t bytes = tpv_view_stats(view).bytes;
    TPV_TRY(tpv_view_safetensors_header(view, NULL, &header, &header_bytes));
    char *data = malloc(bytes + 1);
    tpv_status_t status = data ? tpv_view_gather(view, artifact, 0, bytes, data)
                               : tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a view");
    if (status == TPV_OK) {
        printf("ok %llu\n", (unsigned long long)(header_bytes + bytes));
        fwrite(header, 1, header_bytes, stdout);
        fwrite(data, 1, bytes, stdout);
    }
    free(data);
    free(header);
    return status;
}

static tpv_status_t carry_out(const tpv_artifact_t *artifact, char *request) {
    tpv_plan_options_t options = {0};
    unsigned fuse;
    int plan_at = 0;
    request[strcspn(request, "\n")] = '\0';
    int fields = sscanf(request, "%u %u %u %u %u %u %u %n", &options.tp_size, &options.tp_rank, &fuse, &options.ep_size,
                        &options.ep_rank, &options.expert_tp_size, &options.expert_tp_rank, &plan_at);
    if (fields != 7 || !request[plan_at]) return tpv_error_set(TPV_ERR_ARGUMENT, "not a request: \"%s\"", request);
    options.fuse = fuse;
    char *plan = NULL;
    if (strcmp(request + plan_at, "-") != 0) {
        TPV_TRY(tpv_cli_read_plan(request + plan_at, &plan, &options.plan_length));
        options.plan = plan;
    }
    tpv_view_t *view = NULL;
    tpv_status_t status = tpv_view_plan(artifact, &options, &view);
    if (status == TPV_OK) status = answer(view, artifact);
    tpv_view_free(view);
    free(plan);
    return status;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "Usage: write_views CHECKPOINT <requests >answers\n");
        return 2;
    }
    tpv_artifact_t *artifact;
    if (tpv_artifact_open(argv[1], &artifact) != TPV_OK) {
        fprintf(stderr, "write_views: %s\n", tpv_error_message());
        return 1;
    }
    char *request = NULL;
    size_t room = 0;
    while (getline(&request, &room, stdin) > 0)
        if (carry_out(artifact, request) != TPV_OK) printf("error %s\n", tpv_error_message());
    free(request);
    tpv_artifact_close(artifact);
    return fflush(stdout) == 0 ? 0 : 1;
}

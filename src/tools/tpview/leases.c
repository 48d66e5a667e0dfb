#include <stdio.h>
#include <stdlib.h>

#include "tools/tpview/command.h"

static const char help[] = "Usage: tpview leases [--json]\n"
                           "\n"
                           "Show who holds leases in this host's life-cycle table (TPVIEW_NAMESPACE names it).\n"
                           "\n"
                           "  --json   print JSON\n"
                           "\n"
                           "Example:\n"
                           "  tpview leases\n";

static void print_json(const tpv_lease_info_t *leases, size_t count) {
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        const tpv_lease_info_t *lease = &leases[i];
        json_t *entry =
            json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:b, s:s, s:i, s:i, s:i, s:f, s:f, s:I, s:I}", "lease_id",
                      lease->lease_id, "artifact", lease->artifact, "artifact_id", lease->artifact_id, "view_id",
                      lease->view_id, "export_state", tpv_export_state_name(lease->state), "state",
                      tpv_lease_state_name(lease->lease_state), "pid", (int)lease->pid, "alive", (int)lease->alive,
                      "host", lease->host, "rank_pid", (int)lease->rank_pid, "tp_rank", (int)lease->tp_rank, "tp_size",
                      (int)lease->tp_size, "age_s", lease->age_s, "expires_in_s", lease->expires_in_s, "bytes_done",
                      (json_int_t)lease->bytes_done, "bytes_total", (json_int_t)lease->bytes_total);
        json_array_append_new(list, entry);
    }
    tpv_cli_print_json(json_pack("{s:o}", "leases", list));
}

static void print_table(const tpv_lease_info_t *leases, size_t count) {
    printf("%-12s %-28s %-12s %-20s %9s %9s %8s %16s\n", "lease", "artifact", "view", "host:pid", "rank", "state",
           "age (s)", "bytes");
    for (size_t i = 0; i < count; i++) {
        const tpv_lease_info_t *lease = &leases[i];
        char where[96], rank[32], bytes[48];
        snprintf(where, sizeof where, "%s:%d%s", lease->host, (int)lease->rank_pid, lease->alive ? "" : " (dead)");
        snprintf(rank, sizeof rank, "%u/%u", lease->tp_rank, lease->tp_size);
        snprintf(bytes, sizeof bytes, "%llu/%llu", (unsigned long long)lease->bytes_done,
                 (unsigned long long)lease->bytes_total);
        printf("%-12.12s %-28s %-12.12s %-20s %9s %9s %8.1f %16s\n", lease->lease_id, lease->artifact, lease->view_id,
               where, rank, tpv_lease_state_name(lease->lease_state), lease->age_s, bytes);
    }
    if (count == 0) puts("(no leases)");
}

int tpv_command_leases(int argc, char **argv) {
    tpv_arguments_t arguments;
    tpv_lease_info_t *leases = NULL;
    size_t count = 0;
    int code = tpv_arguments_parse(&arguments, argc, argv, "json", 0, help);
    if (code < 0) {
        tpv_status_t status = tpv_leases_read(NULL, &leases, &count);
        code = status == TPV_OK ? TPV_EXIT_OK : tpv_cli_fail(TOOL, status);
        if (status == TPV_OK && arguments.json) print_json(leases, count);
        if (status == TPV_OK && !arguments.json) print_table(leases, count);
    }
    free(leases);
    tpv_arguments_clear(&arguments);
    return code;
}

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/process.h"
#include "lifecycle/check.h"
#include "lifecycle/survey.h"
#include "lifecycle/sweep.h"
#include "tools/tpview/command.h"
#include "tools/tpview/host.h"

static const char help[] =
    "Usage: tpview doctor [--repair] [--json]\n"
    "\n"
    "Examine this host: prove the life-cycle table (TPVIEW_NAMESPACE names it), find what dead processes\n"
    "left in it, and tell what the system gives: shared memory, huge pages, limits. Changes nothing by\n"
    "itself and may run at any time.\n"
    "\n"
    "  --repair   sweep the table first (end leases that are over, take back what dead processes hold),\n"
    "             then put right what is still wrong\n"
    "  --json     print JSON\n"
    "\n"
    "Exit status: 0 nothing is wrong (also without a table), 1 something is, or was not put right.\n"
    "\n"
    "Example:\n"
    "  tpview doctor --repair\n";

/* All that is told. */
typedef struct {
    bool repair;
    tpv_host_t host;
    tpv_table_t *table; /* NULL: there is none */
    tpv_survey_t survey;
    tpv_sweep_report_t swept;
    json_t *repaired, *findings; /* arrays of {kind, text} */
} doctor_t;

/* Kinds of findings, for programs. */
#define INVARIANT "invariant"         /* the table contradicts itself */
#define DEAD_PROCESS "dead_process"   /* what it holds waits for a sweep */
#define TABLE "table"                 /* there is one that cannot be used or examined */
#define SHARED_MEMORY "shared_memory" /* no room for a table */

static void __attribute__((format(printf, 3, 4))) note(json_t *list, const char *kind, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    json_array_append_new(list, json_pack("{s:s, s:s}", "kind", kind, "text", tpv_cli_text(text)));
}

static void tell(void *user, const char *text) {
    note(user, INVARIANT, "%s", text);
}

static void note_dead(doctor_t *doctor) {
    for (size_t i = 0; i < doctor->survey.holder_count; i++) {
        const tpv_holder_t *holder = &doctor->survey.holders[i];
        if (!holder->alive)
            note(doctor->findings, DEAD_PROCESS,
                 "process %d has ended and holds %u exports, %u leases and %u unused slots: %s",
                 tpv_process_pid(holder->process), holder->exports, holder->leases, holder->slots,
                 doctor->repair ? "a sweep did not take them back" : "--repair takes them back");
    }
}

static tpv_status_t examine_table(doctor_t *doctor) {
    uint32_t count = 0;
    if (doctor->repair) {
        tpv_table_sweep(doctor->table, &doctor->swept);
        TPV_TRY(tpv_table_check(doctor->table, true, tell, doctor->repaired, &count));
        /* What a repair has set free belongs to the dead as well. */
        if (count > 0) tpv_table_sweep(doctor->table, NULL);
    }
    TPV_TRY(tpv_table_check(doctor->table, false, tell, doctor->findings, &count));
    TPV_TRY(tpv_table_survey(doctor->table, &doctor->survey));
    note_dead(doctor);
    return TPV_OK;
}

static void examine(doctor_t *doctor) {
    doctor->host = tpv_host_read();
    tpv_status_t status = tpv_table_open(NULL, doctor->repair ? TPV_OPEN_WRITE : TPV_OPEN_READ, &doctor->table);
    if (status == TPV_ERR_STALE && doctor->repair) {
        status = tpv_table_open(NULL, TPV_OPEN_CREATE, &doctor->table);
        if (status == TPV_OK)
            note(doctor->repaired, TABLE, "%s was of an earlier boot or container: replaced", doctor->table->path);
    } else if (status == TPV_ERR_STALE) {
        status = tpv_error_set(status, "%s: the next program that uses it replaces it, and so does --repair",
                               tpv_error_message());
    }
    if (status == TPV_OK) {
        status = examine_table(doctor);
    } else if (status == TPV_ERR_NOT_FOUND) {
        size_t needed = tpv_table_bytes(TPV_EXPORT_SLOTS, TPV_LEASE_SLOTS);
        status = TPV_OK;
        if (doctor->host.shared_free_bytes < needed)
            note(doctor->findings, SHARED_MEMORY,
                 "shared memory has %llu bytes free and a life-cycle table needs %zu: enlarge /dev/shm",
                 (unsigned long long)doctor->host.shared_free_bytes, needed);
    }
    if (status != TPV_OK) note(doctor->findings, TABLE, "%s", tpv_error_message());
}

/* ---- JSON ---- */

static json_t *number(uint64_t value) {
    return value >= TPV_HOST_UNKNOWN ? json_null() : json_integer((json_int_t)value);
}

static json_t *limit_json(uint64_t soft, uint64_t hard) {
    json_t *pair = json_object();
    const char *const names[] = {"soft", "hard"};
    const uint64_t values[] = {soft, hard};
    for (int i = 0; i < 2; i++)
        json_object_set_new(pair, names[i],
                            values[i] == TPV_HOST_UNLIMITED ? json_string("unlimited") : number(values[i]));
    return pair;
}

static json_t *host_json(const tpv_host_t *host) {
    return json_pack("{s:{s:o, s:o}, s:{s:o, s:o}, s:{s:o, s:o, s:o, s:s}, s:o, s:o}", "shared_memory", "bytes",
                     number(host->shared_bytes), "free_bytes", number(host->shared_free_bytes), "memory", "bytes",
                     number(host->memory_bytes), "available_bytes", number(host->memory_available_bytes), "hugepages",
                     "page_bytes", number(host->huge_page_bytes), "total", number(host->huge_total), "free",
                     number(host->huge_free), "transparent", host->transparent, "memlock_bytes",
                     limit_json(host->memlock_soft, host->memlock_hard), "open_files",
                     limit_json(host->nofile_soft, host->nofile_hard));
}

static json_t *table_json(const doctor_t *doctor) {
    if (!doctor->table) return json_null();
    json_t *exports = json_object(), *leases = json_object(), *counters = json_object(), *holders = json_array();
    for (int i = TPV_EXPORT_FREE + 1; i < TPV_EXPORT_STATE_COUNT; i++)
        json_object_set_new(exports, tpv_export_state_name((tpv_export_state_t)i),
                            json_integer(doctor->survey.exports[i]));
    for (int i = TPV_LEASE_FREE + 1; i < TPV_LEASE_STATE_COUNT; i++)
        json_object_set_new(leases, tpv_lease_state_name((tpv_lease_state_t)i), json_integer(doctor->survey.leases[i]));
    for (int i = 0; i < TPV_COUNT_COUNT; i++)
        json_object_set_new(counters, tpv_counter_name((tpv_counter_t)i),
                            json_integer((json_int_t)tpv_table_counter(doctor->table, (tpv_counter_t)i)));
    for (size_t i = 0; i < doctor->survey.holder_count; i++) {
        const tpv_holder_t *holder = &doctor->survey.holders[i];
        json_array_append_new(holders, json_pack("{s:i, s:b, s:i, s:i, s:i}", "pid", tpv_process_pid(holder->process),
                                                 "alive", (int)holder->alive, "exports", (int)holder->exports, "leases",
                                                 (int)holder->leases, "slots", (int)holder->slots));
    }
    return json_pack("{s:s, s:o, s:o, s:I, s:o, s:o}", "path", tpv_cli_text(doctor->table->path), "exports", exports,
                     "leases", leases, "export_bytes", (json_int_t)doctor->survey.bytes, "processes", holders,
                     "counters", counters);
}

static json_t *swept_json(const tpv_sweep_report_t *swept) {
    return json_pack("{s:i, s:i, s:i, s:i, s:i}", "leases_orphaned", (int)swept->leases_orphaned, "leases_expired",
                     (int)swept->leases_expired, "leases_revoked", (int)swept->leases_revoked, "leases_closed",
                     (int)swept->leases_closed, "exports_freed", (int)swept->exports_freed);
}

static void print_json(const doctor_t *doctor) {
    json_t *root = json_pack("{s:b, s:o, s:o, s:O, s:O}", "healthy", json_array_size(doctor->findings) == 0, "table",
                             table_json(doctor), "host", host_json(&doctor->host), "repaired", doctor->repaired,
                             "findings", doctor->findings);
    if (doctor->repair) json_object_set_new(root, "swept", swept_json(&doctor->swept));
    tpv_cli_print_json(root);
}

/* ---- text ---- */

static const char *bytes_text(uint64_t value, char text[32]) {
    if (value == TPV_HOST_UNLIMITED)
        strcpy(text, "unlimited");
    else if (value == TPV_HOST_UNKNOWN)
        strcpy(text, "unknown");
    else if (value >= 1000000000)
        snprintf(text, 32, "%.1f GB", (double)value / 1e9);
    else
        snprintf(text, 32, "%.1f MB", (double)value / 1e6);
    return text;
}

static const char *count_text(uint64_t value, char text[32]) {
    if (value >= TPV_HOST_UNKNOWN) return bytes_text(value, text);
    snprintf(text, 32, "%llu", (unsigned long long)value);
    return text;
}

static void print_states(const char *what, const uint32_t *counts, int states, const char *(*name)(int)) {
    const char *separator = "";
    printf("%-14s ", what);
    for (int i = 1; i < states; i++) {
        if (counts[i] == 0) continue;
        printf("%s%u %s", separator, counts[i], name(i));
        separator = ", ";
    }
    puts(*separator ? "" : "none");
}

static const char *export_state(int state) {
    return tpv_export_state_name((tpv_export_state_t)state);
}

static const char *lease_state(int state) {
    return tpv_lease_state_name((tpv_lease_state_t)state);
}

static void print_table(const doctor_t *doctor) {
    char text[32];
    if (!doctor->table) {
        puts("table          none");
        return;
    }
    printf("table          %s\n", tpv_cli_text(doctor->table->path));
    print_states("exports", doctor->survey.exports, TPV_EXPORT_STATE_COUNT, export_state);
    printf("export bytes   %s\n", bytes_text(doctor->survey.bytes, text));
    print_states("leases", doctor->survey.leases, TPV_LEASE_STATE_COUNT, lease_state);
    for (size_t i = 0; i < doctor->survey.holder_count; i++) {
        const tpv_holder_t *holder = &doctor->survey.holders[i];
        printf("process        %d%s: %u exports, %u leases\n", tpv_process_pid(holder->process),
               holder->alive ? "" : " (dead)", holder->exports, holder->leases);
    }
    for (int i = 0; i < TPV_COUNT_COUNT; i++) {
        uint64_t count = tpv_table_counter(doctor->table, (tpv_counter_t)i);
        if (count > 0)
            printf("counter        %s %llu\n", tpv_counter_name((tpv_counter_t)i), (unsigned long long)count);
    }
}

static void print_host(const tpv_host_t *host) {
    char one[32], two[32], three[32];
    printf("shared memory  %s free of %s\n", bytes_text(host->shared_free_bytes, one),
           bytes_text(host->shared_bytes, two));
    printf("memory         %s available of %s\n", bytes_text(host->memory_available_bytes, one),
           bytes_text(host->memory_bytes, two));
    printf("huge pages     %s free of %s, %s each; transparent: %s\n", count_text(host->huge_free, one),
           count_text(host->huge_total, two), bytes_text(host->huge_page_bytes, three), host->transparent);
    printf("locked memory  %s, at most %s\n", bytes_text(host->memlock_soft, one), bytes_text(host->memlock_hard, two));
    printf("open files     %s, at most %s\n", count_text(host->nofile_soft, one), count_text(host->nofile_hard, two));
}

static void print_lines(const char *what, const json_t *lines) {
    for (size_t i = 0; i < json_array_size(lines); i++)
        printf("%-14s %s\n", what, json_string_value(json_object_get(json_array_get(lines, i), "text")));
}

static void print_text(const doctor_t *doctor) {
    print_table(doctor);
    print_host(&doctor->host);
    if (doctor->repair && doctor->table)
        printf("swept          %u leases orphaned, %u expired, %u revoked, %u closed; %u exports freed\n",
               doctor->swept.leases_orphaned, doctor->swept.leases_expired, doctor->swept.leases_revoked,
               doctor->swept.leases_closed, doctor->swept.exports_freed);
    print_lines("repaired", doctor->repaired);
    print_lines("finding", doctor->findings);
    if (json_array_size(doctor->findings) == 0) puts("nothing is wrong");
}

int tpv_command_doctor(int argc, char **argv) {
    tpv_arguments_t arguments;
    int code = tpv_arguments_parse(&arguments, argc, argv, "repair json", NULL, help);
    if (code < 0) {
        doctor_t doctor = {.repair = arguments.repair, .repaired = json_array(), .findings = json_array()};
        examine(&doctor);
        if (arguments.json)
            print_json(&doctor);
        else
            print_text(&doctor);
        code = json_array_size(doctor.findings) == 0 ? TPV_EXIT_OK : TPV_EXIT_FAILURE;
        tpv_survey_clear(&doctor.survey);
        tpv_table_close(doctor.table);
        json_decref(doctor.repaired);
        json_decref(doctor.findings);
    }
    tpv_arguments_clear(&arguments);
    return code;
}

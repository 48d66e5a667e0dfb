#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "tools/tpview/command.h"

static const char help[] =
    "Usage: tpview leases [--watch [SECONDS]] [--json]\n"
    "\n"
    "Show who holds leases in this host's life-cycle table (TPVIEW_NAMESPACE names it). The rate is that\n"
    "since the look before, or since the lease began if that was later.\n"
    "\n"
    "  --watch [SECONDS]   look again and again (default: every second) until a signal; redraws on a\n"
    "                      terminal, else prints one block a look\n"
    "  --json              print JSON; with --watch one line a look\n"
    "\n"
    "Example:\n"
    "  tpview leases --watch 2\n";

/* One look at the table. */
typedef struct {
    tpv_lease_info_t *leases;
    double *rates; /* GB/s, one for each lease */
    size_t count;
    double rate; /* of all together */
} look_t;

static void drop_look(look_t *look) {
    free(look->leases);
    free(look->rates);
    *look = (look_t){0};
}

/* A lease's age goes with its bytes; a look as a whole takes any time. */
static double rate_of(const tpv_lease_info_t *lease, const look_t *before) {
    uint64_t bytes = lease->bytes_done;
    double seconds = lease->age_s;
    for (size_t i = 0; i < before->count; i++) {
        if (strcmp(before->leases[i].lease_id, lease->lease_id) != 0) continue;
        uint64_t then = before->leases[i].bytes_done;
        bytes = bytes > then ? bytes - then : 0;
        seconds -= before->leases[i].age_s;
        break;
    }
    return seconds > 0 ? (double)bytes / 1e9 / seconds : 0;
}

static tpv_status_t take_look(const look_t *before, look_t *look) {
    *look = (look_t){0};
    TPV_TRY(tpv_leases_read(NULL, &look->leases, &look->count));
    look->rates = calloc(look->count + 1, sizeof *look->rates);
    if (!look->rates) {
        drop_look(look);
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the rates of leases");
    }
    for (size_t i = 0; i < look->count; i++) {
        look->rates[i] = rate_of(&look->leases[i], before);
        look->rate += look->rates[i];
    }
    return TPV_OK;
}

/* ---- printing ---- */

static json_t *to_json(const look_t *look) {
    json_t *list = json_array();
    for (size_t i = 0; i < look->count; i++) {
        const tpv_lease_info_t *lease = &look->leases[i];
        json_t *entry = json_pack(
            "{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:b, s:s, s:i, s:i, s:i, s:f, s:f, s:I, s:I, s:f}", "lease_id",
            lease->lease_id, "artifact", lease->artifact, "artifact_id", lease->artifact_id, "view_id", lease->view_id,
            "export_state", tpv_export_state_name(lease->state), "state", tpv_lease_state_name(lease->lease_state),
            "pid", (int)lease->pid, "alive", (int)lease->alive, "host", lease->host, "rank_pid", (int)lease->rank_pid,
            "tp_rank", (int)lease->tp_rank, "tp_size", (int)lease->tp_size, "age_s", lease->age_s, "expires_in_s",
            lease->expires_in_s, "bytes_done", (json_int_t)lease->bytes_done, "bytes_total",
            (json_int_t)lease->bytes_total, "gb_per_s", look->rates[i]);
        json_array_append_new(list, entry);
    }
    return json_pack("{s:o}", "leases", list);
}

static void print_table(const look_t *look, size_t rows, FILE *stream) {
    fprintf(stream, "%-12s %-28s %-12s %-20s %9s %9s %8s %22s %8s\n", "lease", "artifact", "view", "host:pid", "rank",
            "state", "age (s)", "bytes", "GB/s");
    size_t shown = look->count <= rows ? look->count : rows;
    for (size_t i = 0; i < shown; i++) {
        const tpv_lease_info_t *lease = &look->leases[i];
        char where[96], rank[32], bytes[48];
        snprintf(where, sizeof where, "%s:%d%s", lease->host, (int)lease->rank_pid, lease->alive ? "" : " (dead)");
        snprintf(rank, sizeof rank, "%u/%u", lease->tp_rank, lease->tp_size);
        snprintf(bytes, sizeof bytes, "%llu/%llu", (unsigned long long)lease->bytes_done,
                 (unsigned long long)lease->bytes_total);
        fprintf(stream, "%-12.12s %-28s %-12.12s %-20s %9s %9s %8.1f %22s %8.3f\n", lease->lease_id, lease->artifact,
                lease->view_id, where, rank, tpv_lease_state_name(lease->lease_state), lease->age_s, bytes,
                look->rates[i]);
    }
    if (look->count == 0) fputs("(no leases)\n", stream);
    if (shown < look->count) fprintf(stream, "(%zu more)\n", look->count - shown);
}

/* ---- watching ---- */

/* Redraw from the top, nothing wider or longer than the screen: so there is nothing to restore at the end. */
static void draw(const look_t *look, double period) {
    struct winsize size = {0};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0) size = (struct winsize){24, 80, 0, 0};
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    if (!stream) return;
    fprintf(stream, "every %g s: %zu leases, %.3f GB/s\n", period, look->count, look->rate);
    print_table(look, size.ws_row > 5 ? size.ws_row - 5u : 1, stream);
    if (fclose(stream) == 0) {
        fputs("\033[H", stdout);
        char *rest = NULL;
        for (const char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
            printf("%.*s\033[K\n", size.ws_col > 1 ? size.ws_col - 1 : 1, line);
        fputs("\033[J", stdout);
    }
    free(text);
}

static void show(const look_t *look, const tpv_arguments_t *arguments, bool terminal) {
    if (arguments->json) {
        json_t *root = to_json(look);
        json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
        putchar('\n');
        json_decref(root);
    } else if (terminal) {
        draw(look, arguments->watch_s);
    } else {
        print_table(look, look->count, stdout);
        putchar('\n');
    }
}

/* True when one of `ends` came before `until`. */
static bool ended(const sigset_t *ends, int64_t until) {
    for (;;) {
        int64_t left = tpv_deadline_left(until);
        struct timespec wait = {.tv_sec = left / TPV_NS_PER_SECOND, .tv_nsec = left % TPV_NS_PER_SECOND};
        if (sigtimedwait(ends, NULL, &wait) > 0) return true;
        if (errno == EAGAIN) return false; /* anything else: a stop and a continue */
    }
}

static tpv_status_t watch(const tpv_arguments_t *arguments) {
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    bool terminal = isatty(STDOUT_FILENO) && !arguments->json;
    if (terminal) fputs("\033[2J", stdout);
    look_t before = {0}, look;
    tpv_status_t status = TPV_OK;
    for (int64_t next = tpv_clock_ns();;) {
        status = take_look(&before, &look);
        if (status != TPV_OK) break;
        show(&look, arguments, terminal);
        drop_look(&before);
        before = look;
        if (fflush(stdout) != 0) {
            /* Whoever read has enough. */
            if (errno != EPIPE) status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot write the leases");
            break;
        }
        next = tpv_deadline_in(arguments->watch_s);
        if (ended(&ends, next)) break;
    }
    drop_look(&before);
    return status;
}

static tpv_status_t print_once(const tpv_arguments_t *arguments) {
    look_t none = {0}, look;
    TPV_TRY(take_look(&none, &look));
    if (arguments->json)
        tpv_cli_print_json(to_json(&look));
    else
        print_table(&look, look.count, stdout);
    drop_look(&look);
    return TPV_OK;
}

int tpv_command_leases(int argc, char **argv) {
    tpv_arguments_t arguments;
    int code = tpv_arguments_parse(&arguments, argc, argv, "watch json", NULL, help);
    if (code < 0) {
        tpv_status_t status = arguments.watch ? watch(&arguments) : print_once(&arguments);
        code = status == TPV_OK ? TPV_EXIT_OK : tpv_cli_fail(status);
    }
    tpv_arguments_clear(&arguments);
    return code;
}

/* tpview_perf: how fast ranks get their views, beside the plugin's comms alone and whole tensors, in one run. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/params.h"
#include "tools/common/cli.h"
#include "tools/common/stop_signals.h"
#include "tools/perf/gathered.h"
#include "tools/perf/ranks.h"
#include "tools/perf/report.h"
#include "tools/perf/versions.h"

#define RANKS_MAX 256
#define CONTROL_SECONDS 60
/* A new version is digested before it is on offer. */
#define PUBLISH_SECONDS 600

static const char help[] =
    "Usage: tpview_perf --artifact NAME[@VERSION] --tp-size N [OPTION...]\n"
    "\n"
    "One or more ranks fetch views into memory, all of them at the same time, again and again; every kind of trial "
    "has\n"
    "its turn in each round. Prints medians, a row for each size and kind.\n"
    "\n"
    "  --tp-rank R        the first rank (default 0);  --ranks N  how many at once, each a process (default 1)\n"
    "  --view CUT         column: tensors of which a rank needs one run; row: those of which it needs strided parts;\n"
    "                     mixed: its whole view (default)\n"
    "  -b BYTES, -e BYTES, -f FACTOR    views of this size and up to that one (default: all of the view; 2). A view "
    "has\n"
    "                     whole rows, so sizes are not exact\n"
    "  -n N               counted rounds (default 5);  -w N  rounds before (default 1)\n"
    "  -c 0|1             compare the bytes with those of the canonical way, in a round that is not counted (default "
    "1)\n"
    "  --cold             also views that the service has never seen\n"
    "  --update DIR       also new versions: before each such trial a version of the checkpoint in DIR with one value\n"
    "                     changed is published, from a folder beside it, under a name of its own (NAME.perf-PID); a\n"
    "                     rank gets its index, plans and fetches\n"
    "  --baseline         also the plugin's comm alone, between two processes without framing or digests, and the\n"
    "                     canonical way: whole tensors, cut by the rank, also those of which -b leaves few rows\n"
    "  --fuse, --comms K, --chunk BYTES, --net PLUGIN, --no-digests    as tpview fetch\n"
    "  --source ADDR, --any-uid, --token-file FILE, --tls-ca FILE, --tls-cert FILE, --tls-key FILE    as tpview fetch\n"
    "  --json             print JSON\n"
    "\n"
    "Example:\n"
    "  tpview_perf --artifact qwen3-14b --tp-size 4 --cold --baseline\n";

enum {
    OPT_SOURCE = 256,
    OPT_ARTIFACT,
    OPT_SIZE,
    OPT_RANK,
    OPT_RANKS,
    OPT_VIEW,
    OPT_COLD,
    OPT_UPDATE,
    OPT_BASELINE,
    OPT_FUSE,
    OPT_COMMS,
    OPT_CHUNK,
    OPT_NET,
    OPT_NO_DIGESTS,
    OPT_TOKEN,
    OPT_TLS_CA,
    OPT_TLS_CERT,
    OPT_TLS_KEY,
    OPT_ANY_UID,
    OPT_JSON,
    OPT_HELP
};

static const struct option long_options[] = {{"source", required_argument, NULL, OPT_SOURCE},
                                             {"artifact", required_argument, NULL, OPT_ARTIFACT},
                                             {"tp-size", required_argument, NULL, OPT_SIZE},
                                             {"tp-rank", required_argument, NULL, OPT_RANK},
                                             {"ranks", required_argument, NULL, OPT_RANKS},
                                             {"view", required_argument, NULL, OPT_VIEW},
                                             {"cold", no_argument, NULL, OPT_COLD},
                                             {"update", required_argument, NULL, OPT_UPDATE},
                                             {"baseline", no_argument, NULL, OPT_BASELINE},
                                             {"fuse", no_argument, NULL, OPT_FUSE},
                                             {"comms", required_argument, NULL, OPT_COMMS},
                                             {"chunk", required_argument, NULL, OPT_CHUNK},
                                             {"net", required_argument, NULL, OPT_NET},
                                             {"no-digests", no_argument, NULL, OPT_NO_DIGESTS},
                                             {"token-file", required_argument, NULL, OPT_TOKEN},
                                             {"tls-ca", required_argument, NULL, OPT_TLS_CA},
                                             {"tls-cert", required_argument, NULL, OPT_TLS_CERT},
                                             {"tls-key", required_argument, NULL, OPT_TLS_KEY},
                                             {"any-uid", no_argument, NULL, OPT_ANY_UID},
                                             {"json", no_argument, NULL, OPT_JSON},
                                             {"help", no_argument, NULL, OPT_HELP},
                                             {NULL, 0, NULL, 0}};

typedef struct {
    tpv_rank_setup_t setup;
    const char *token_file, *update;
    char *token, checkpoint[PATH_MAX];
    int64_t ranks, smallest, largest, factor, rounds, warmup, check;
    bool wanted[TPV_TRIAL_KINDS];
    /* While it runs. */
    tpv_source_t *source;
    tpv_ranks_t all;
    tpv_versions_t versions;
    tpv_report_t report;
    tpv_trial_t *trials;  /* one for each rank */
    tpv_series_t *series; /* one for each kind */
    unsigned trial_number;
    bool holding; /* signals; the mask before */
    sigset_t unblocked;
} perf_t;

/* ---- a trial ---- */

static void keep_largest(uint64_t *most, uint64_t value) {
    if (value > *most) *most = value;
}

/* What one trial of all ranks was like. */
static void add(const perf_t *perf, tpv_series_t *series) {
    unsigned round = series->rounds++;
    bool ready = true;
    series->outputs = series->elements = series->bytes = series->wire = 0;
    for (unsigned i = 0; i < perf->all.count; i++) {
        const tpv_trial_t *trial = &perf->trials[i];
        if (trial->seconds > series->seconds[round]) series->seconds[round] = trial->seconds;
        if (trial->first_seconds > series->first[round]) series->first[round] = trial->first_seconds;
        if (trial->gap_p99_seconds > series->gap_p99[round]) series->gap_p99[round] = trial->gap_p99_seconds;
        series->outputs += trial->outputs;
        series->elements += trial->elements;
        series->bytes += trial->bytes;
        series->wire += trial->wire_bytes;
        keep_largest(&series->rank_memory, trial->memory_bytes);
        ready = ready && trial->warm;
        memcpy(series->type, trial->type, sizeof series->type);
    }
    if (series->kind == TPV_TRIAL_WARM && !ready) series->not_warm++;
}

typedef enum { CHECKED, UNCOUNTED, COUNTED } round_t;

static tpv_status_t try(perf_t *perf, tpv_trial_kind_t kind, uint64_t size, round_t round) {
    tpv_series_t *series = &perf->series[kind];
    tpv_trial_order_t order = {.kind = kind, .size = size, .number = ++perf->trial_number, .check = round == CHECKED};
    if (tpv_stop_signals_pending()) return tpv_error_set(TPV_ERR_CANCELLED, "stopped by a signal");
    if (kind == TPV_TRIAL_UPDATE) {
        TPV_TRY(tpv_versions_next(&perf->versions, PUBLISH_SECONDS));
        memcpy(order.artifact, perf->versions.label, sizeof order.artifact);
    }
    tpv_gathered_t before = {0}, after = {0};
    if (kind != TPV_TRIAL_STREAM) TPV_TRY(tpv_gathered_read(perf->source, CONTROL_SECONDS, &before));
    TPV_TRY(tpv_ranks_try(&perf->all, &order, perf->trials));
    if (kind != TPV_TRIAL_STREAM) TPV_TRY(tpv_gathered_read(perf->source, CONTROL_SECONDS, &after));
    for (unsigned i = 0; round == CHECKED && i < perf->all.count; i++)
        series->wrong += perf->trials[i].wrong;
    series->checked = series->checked || round == CHECKED;
    if (round != COUNTED) return TPV_OK;
    add(perf, series);
    series->gathered_bytes += after.bytes - before.bytes;
    series->gather_seconds += after.seconds - before.seconds;
    keep_largest(&series->source_memory, (uint64_t)after.memory);
    return TPV_OK;
}

/* All kinds by turns, so that what changes on the machine changes for all of them. */
static tpv_status_t measure(perf_t *perf, uint64_t size) {
    memset(perf->series, 0, TPV_TRIAL_KINDS * sizeof *perf->series);
    for (unsigned kind = 0; kind < TPV_TRIAL_KINDS; kind++) {
        perf->series[kind].kind = (tpv_trial_kind_t)kind;
        /* The bytes of a stream are made up. */
        if (perf->check && perf->wanted[kind] && kind != TPV_TRIAL_STREAM)
            TPV_TRY(try(perf, (tpv_trial_kind_t)kind, size, CHECKED));
    }
    for (int64_t round = -perf->warmup; round < perf->rounds; round++)
        for (unsigned kind = 0; kind < TPV_TRIAL_KINDS; kind++)
            if (perf->wanted[kind]) TPV_TRY(try(perf, (tpv_trial_kind_t)kind, size, round < 0 ? UNCOUNTED : COUNTED));
    for (unsigned kind = 0; kind < TPV_TRIAL_KINDS; kind++)
        if (perf->wanted[kind])
            tpv_report_row(&perf->report, &perf->series[kind],
                           kind == TPV_TRIAL_STREAM ? NULL : &perf->series[TPV_TRIAL_STREAM]);
    return TPV_OK;
}

static tpv_status_t measure_all(perf_t *perf) {
    uint64_t before = 0;
    for (int64_t size = perf->smallest; size <= perf->largest; size *= perf->factor) {
        TPV_TRY(measure(perf, (uint64_t)size));
        uint64_t bytes = perf->series[TPV_TRIAL_WARM].bytes;
        /* There is no more of it. */
        if (size == 0 || bytes == before || size > perf->largest / perf->factor) break;
        before = bytes;
    }
    return TPV_OK;
}

/* ---- the run ---- */

static tpv_status_t judge(perf_t *perf) {
    const tpv_rank_setup_t *setup = &perf->setup;
    if (!setup->artifact || !setup->plan.tp_size)
        return tpv_error_set(TPV_ERR_ARGUMENT, "--artifact and --tp-size are needed");
    if (setup->plan.tp_rank >= setup->plan.tp_size)
        return tpv_error_set(TPV_ERR_ARGUMENT, "tp_rank %u is not in a group of tp_size %u", setup->plan.tp_rank,
                             setup->plan.tp_size);
    if (!perf->smallest) perf->smallest = perf->largest;
    if (!perf->largest) perf->largest = perf->smallest;
    if (perf->smallest > perf->largest) return tpv_error_set(TPV_ERR_ARGUMENT, "-b is larger than -e");
    if (perf->update && !realpath(perf->update, perf->checkpoint))
        return tpv_error_set_errno(TPV_ERR_NOT_FOUND, errno, "--update %s", tpv_cli_text(perf->update));
    return TPV_OK;
}

/* From here on a signal ends the present trial, and the process only after the versions are gone. The ranks, which are
 * there already, still die of it. */
static tpv_status_t hold_signals(perf_t *perf) {
    sigset_t signals = tpv_stop_signals();
    sigprocmask(SIG_BLOCK, &signals, &perf->unblocked);
    perf->holding = true;
    perf->all.stop = signalfd(-1, &signals, SFD_CLOEXEC);
    return perf->all.stop < 0 ? tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot make a signalfd") : TPV_OK;
}

static tpv_status_t run(perf_t *perf) {
    tpv_rank_setup_t *setup = &perf->setup;
    if (perf->token_file) TPV_TRY(tpv_cli_token(perf->token_file, &perf->token));
    setup->connection.token = perf->token;
    if (!setup->fetch.chunk_bytes) setup->fetch.chunk_bytes = (uint64_t)tpv_param_int(TPV_PARAM_CHUNK_BYTES);
    setup->fetch.tp_size = setup->plan.tp_size;
    perf->trials = calloc((size_t)perf->ranks, sizeof *perf->trials);
    perf->series = calloc(TPV_TRIAL_KINDS, sizeof *perf->series);
    if (!perf->trials || !perf->series) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for results");
    TPV_TRY(tpv_ranks_start(setup, (unsigned)perf->ranks, &perf->all));
    TPV_TRY(hold_signals(perf));
    TPV_TRY(tpv_source_open(setup->address, &setup->connection, &perf->source));
    perf->versions = (tpv_versions_t){.source = perf->source, .checkpoint = perf->checkpoint, .name = setup->artifact};
    tpv_report_begin(&perf->report, setup, perf->all.count, perf->warmup, perf->rounds, perf->check);
    TPV_TRY(measure_all(perf));
    return tpv_report_end(&perf->report);
}

static void end(perf_t *perf) {
    if (perf->holding && perf->all.stop >= 0) close(perf->all.stop);
    tpv_ranks_stop(&perf->all);
    tpv_versions_end(&perf->versions);
    tpv_source_close(perf->source);
    json_decref(perf->report.rows);
    free(perf->trials);
    free(perf->series);
    free(perf->token);
    if (perf->holding) sigprocmask(SIG_SETMASK, &perf->unblocked, NULL); /* dies here of one that has come */
}

/* ---- options ---- */

static tpv_status_t take_cut(const char *text, tpv_cut_t *cut) {
    static const tpv_cut_t all[] = {TPV_CUT_MIXED, TPV_CUT_COLUMN, TPV_CUT_ROW};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (strcmp(text, tpv_cut_name(all[i])) != 0) continue;
        *cut = all[i];
        return TPV_OK;
    }
    return tpv_error_set(TPV_ERR_ARGUMENT, "--view %s: expected column, row or mixed", tpv_cli_text(text));
}

static tpv_status_t take_uint(const char *option, int64_t least, int64_t most, uint32_t *value) {
    int64_t number = 0;
    TPV_TRY(tpv_parse_int(option, optarg, least, most, &number));
    *value = (uint32_t)number;
    return TPV_OK;
}

static tpv_status_t take(void *user, int option) {
    perf_t *perf = user;
    tpv_rank_setup_t *setup = &perf->setup;
    int64_t number = 0;
    switch (option) {
    case OPT_SOURCE:
        setup->address = optarg;
        return TPV_OK;
    case OPT_ARTIFACT:
        setup->artifact = optarg;
        return TPV_OK;
    case OPT_SIZE:
        return take_uint("--tp-size", 1, TPV_MAX_TP_SIZE, &setup->plan.tp_size);
    case OPT_RANK:
        return take_uint("--tp-rank", 0, TPV_MAX_TP_SIZE - 1, &setup->plan.tp_rank);
    case OPT_RANKS:
        return tpv_parse_int("--ranks", optarg, 1, RANKS_MAX, &perf->ranks);
    case OPT_VIEW:
        return take_cut(optarg, &setup->cut);
    case OPT_COLD:
        perf->wanted[TPV_TRIAL_COLD] = true;
        return TPV_OK;
    case OPT_UPDATE:
        perf->wanted[TPV_TRIAL_UPDATE] = true;
        perf->update = optarg;
        return TPV_OK;
    case OPT_BASELINE:
        perf->wanted[TPV_TRIAL_STREAM] = perf->wanted[TPV_TRIAL_WHOLE] = true;
        return TPV_OK;
    case OPT_FUSE:
        setup->plan.fuse = true;
        return TPV_OK;
    case OPT_COMMS:
        return take_uint("--comms", 1, TPV_MAX_COMMS, &setup->fetch.comms);
    case OPT_CHUNK:
        TPV_TRY(tpv_parse_int("--chunk", optarg, TPV_MIN_CHUNK, TPV_MAX_CHUNK, &number));
        setup->fetch.chunk_bytes = (uint64_t)number;
        return TPV_OK;
    case OPT_NET:
        setup->fetch.net = optarg;
        return TPV_OK;
    case OPT_NO_DIGESTS:
        setup->fetch.no_digests = true;
        return TPV_OK;
    case OPT_TOKEN:
        perf->token_file = optarg;
        return TPV_OK;
    case OPT_TLS_CA:
        setup->connection.tls_ca = optarg;
        return TPV_OK;
    case OPT_TLS_CERT:
        setup->connection.tls_cert = optarg;
        return TPV_OK;
    case OPT_TLS_KEY:
        setup->connection.tls_key = optarg;
        return TPV_OK;
    case OPT_ANY_UID:
        setup->connection.any_uid = true;
        return TPV_OK;
    case OPT_JSON:
        perf->report.json = true;
        return TPV_OK;
    case 'b':
        return tpv_parse_int("-b", optarg, 1, (int64_t)TPV_MAX_VIEW_BYTES, &perf->smallest);
    case 'e':
        return tpv_parse_int("-e", optarg, 1, (int64_t)TPV_MAX_VIEW_BYTES, &perf->largest);
    case 'f':
        return tpv_parse_int("-f", optarg, 2, INT32_MAX, &perf->factor);
    case 'n':
        return tpv_parse_int("-n", optarg, 1, TPV_PERF_ROUNDS_MAX, &perf->rounds);
    case 'w':
        return tpv_parse_int("-w", optarg, 0, TPV_PERF_ROUNDS_MAX, &perf->warmup);
    case 'c':
        return tpv_parse_int("-c", optarg, 0, 1, &perf->check);
    default:
        return TPV_OK; /* not to be had: main has looked */
    }
}

int main(int argc, char **argv) {
    perf_t perf = {.ranks = 1, .factor = 2, .rounds = 5, .warmup = 1, .check = 1, .wanted = {[TPV_TRIAL_WARM] = true}};
    tpv_cli_begin("tpview_perf", argc, argv);
    int code = TPV_EXIT_FAILURE;
    if (tpv_cli_options(argc, argv, ":hb:e:f:n:w:c:", long_options, OPT_HELP, help, take, &perf, &code)) {
        tpv_status_t status = judge(&perf);
        if (status == TPV_OK) status = run(&perf);
        code = status == TPV_OK ? TPV_EXIT_OK : tpv_cli_fail(status);
    }
    end(&perf);
    return tpv_cli_end(code);
}

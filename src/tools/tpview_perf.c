/* tpview_perf: the rate of fetches against the plain streaming rate of the same plugin's comm, in one run. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/params.h"
#include "tools/common/cli.h"
#include "tools/common/raw_stream.h"
#include "tpview/tpview.h"

#define MOST_ITERATIONS 1000

static const char help[] =
    "Usage: tpview_perf --source ADDR --artifact NAME[@VERSION] --tp-size N [OPTION...]\n"
    "\n"
    "For each rank in turn: stream as many bytes as its view has over one comm of the net plugin, between two\n"
    "processes and without framing or digests; fetch the view into memory; again and again by turns. Prints medians.\n"
    "\n"
    "  --tp-rank R        only this rank\n"
    "  --fuse             q, k, v into qkv_proj and gate, up into gate_up_proj\n"
    "  --comms K, --chunk BYTES, --net PLUGIN, --no-digests   as tpview fetch\n"
    "  --token-file FILE  bearer token for a service on TCP\n"
    "  --tls-ca FILE, --tls-cert FILE, --tls-key FILE   as tpview fetch\n"
    "  -n N               counted rounds (default 5);  -w N  rounds before (default 1)\n"
    "  --json             print JSON\n"
    "\n"
    "Example:\n"
    "  tpview_perf --source unix:/tmp/tpviewd-0.sock --artifact qwen3-14b --tp-size 4\n";

enum {
    OPT_SOURCE = 256,
    OPT_ARTIFACT,
    OPT_SIZE,
    OPT_RANK,
    OPT_FUSE,
    OPT_COMMS,
    OPT_CHUNK,
    OPT_NET,
    OPT_NO_DIGESTS,
    OPT_TOKEN,
    OPT_TLS_CA,
    OPT_TLS_CERT,
    OPT_TLS_KEY,
    OPT_JSON,
    OPT_HELP
};

static const struct option long_options[] = {{"source", required_argument, NULL, OPT_SOURCE},
                                             {"artifact", required_argument, NULL, OPT_ARTIFACT},
                                             {"tp-size", required_argument, NULL, OPT_SIZE},
                                             {"tp-rank", required_argument, NULL, OPT_RANK},
                                             {"fuse", no_argument, NULL, OPT_FUSE},
                                             {"comms", required_argument, NULL, OPT_COMMS},
                                             {"chunk", required_argument, NULL, OPT_CHUNK},
                                             {"net", required_argument, NULL, OPT_NET},
                                             {"no-digests", no_argument, NULL, OPT_NO_DIGESTS},
                                             {"token-file", required_argument, NULL, OPT_TOKEN},
                                             {"tls-ca", required_argument, NULL, OPT_TLS_CA},
                                             {"tls-cert", required_argument, NULL, OPT_TLS_CERT},
                                             {"tls-key", required_argument, NULL, OPT_TLS_KEY},
                                             {"json", no_argument, NULL, OPT_JSON},
                                             {"help", no_argument, NULL, OPT_HELP},
                                             {NULL, 0, NULL, 0}};

typedef struct {
    const char *address, *name, *token_file;
    tpv_source_options_t connection;
    char *token;
    tpv_plan_options_t plan;
    tpv_fetch_options_t fetch;
    int64_t only_rank; /* -1: all */
    int64_t rounds, warmup;
    bool json;
    tpv_source_t *source;
    tpv_artifact_t *artifact;
    json_t *rows;
} perf_t;

typedef struct {
    double stream[MOST_ITERATIONS], fetch[MOST_ITERATIONS]; /* GB/s */
} rates_t;

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count) {
    qsort(values, count, sizeof *values, compare);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* The sending process has memory of its own, as a source has. */
static void send_and_exit(const perf_t *perf, const tpv_raw_stream_t *stream, int handle_fd) {
    tpv_net_t *net = NULL;
    void *memory = mmap(NULL, stream->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    tpv_status_t status = memory == MAP_FAILED ? tpv_error_set_errno(TPV_ERR_NO_MEMORY, errno, "no memory to send")
                                               : tpv_net_open(perf->fetch.net, &net);
    if (status == TPV_OK) {
        madvise(memory, stream->bytes, MADV_HUGEPAGE);
        memset(memory, 0x5a, stream->bytes);
        status = tpv_raw_send(net, stream, handle_fd, memory);
    }
    if (status != TPV_OK) fprintf(stderr, "tpview_perf: sender: %s\n", tpv_error_message());
    _exit(status == TPV_OK ? 0 : 1);
}

static tpv_status_t stream_once(const perf_t *perf, uint64_t bytes, void *memory, double *rate) {
    tpv_raw_stream_t stream = {.block = perf->fetch.chunk_bytes, .bytes = bytes, .inflight = 8};
    int ends[2];
    if (pipe(ends) != 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot make a pipe");
    pid_t child = fork();
    if (child < 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot fork");
    if (child == 0) send_and_exit(perf, &stream, ends[0]);
    tpv_net_t *net = NULL;
    double seconds = 0;
    tpv_status_t status = tpv_net_open(perf->fetch.net, &net);
    if (status == TPV_OK) status = tpv_raw_receive(net, &stream, ends[1], memory, &seconds);
    tpv_net_close(net);
    close(ends[0]);
    close(ends[1]);
    int code = 0;
    if (waitpid(child, &code, 0) != child || code != 0)
        if (status == TPV_OK) status = tpv_error_set(TPV_ERR_PEER, "the sending process failed");
    *rate = (double)bytes / 1e9 / seconds;
    return status;
}

static void print_row(perf_t *perf, const tpv_view_t *view, rates_t *rates, const tpv_fetch_result_t *result) {
    double stream = median(rates->stream, (size_t)perf->rounds), fetch = median(rates->fetch, (size_t)perf->rounds);
    tpv_view_stats_t stats = tpv_view_stats(view);
    double wire = stats.bytes ? (double)result->wire_bytes / (double)stats.bytes : 1;
    if (perf->json) {
        json_array_append_new(perf->rows,
                              json_pack("{s:i, s:I, s:I, s:f, s:f, s:f, s:f, s:s}", "tp_rank", (int)perf->plan.tp_rank,
                                        "tensors", (json_int_t)stats.outputs, "bytes", (json_int_t)stats.bytes,
                                        "stream_gb_per_s", stream, "fetch_gb_per_s", fetch, "ratio", fetch / stream,
                                        "wire_per_needed", wire, "export", result->export_kind));
        return;
    }
    printf("%8u  %8llu  %14llu  %9.2f  %9.2f  %9.3f  %9.5f  %7s\n", perf->plan.tp_rank,
           (unsigned long long)stats.outputs, (unsigned long long)stats.bytes, stream, fetch, fetch / stream, wire,
           result->export_kind);
    fflush(stdout);
}

static tpv_status_t measure(perf_t *perf, const tpv_view_t *view) {
    uint64_t bytes = tpv_view_stats(view).bytes;
    rates_t *rates = calloc(1, sizeof *rates);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    tpv_status_t status = TPV_OK;
    tpv_fetch_result_t result = {0};
    if (!rates || memory == MAP_FAILED) {
        free(rates);
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %llu bytes", (unsigned long long)bytes);
    }
    madvise(memory, bytes, MADV_HUGEPAGE);
    madvise(memory, bytes, MADV_DONTFORK); /* or every page would be copied at its first write beside the sender */
    memset(memory, 0, bytes);              /* pages first: neither side's time shall hold their faults */
    for (int64_t round = -perf->warmup; round < perf->rounds && status == TPV_OK; round++) {
        double rate = 0;
        status = stream_once(perf, bytes, memory, &rate);
        if (status == TPV_OK) status = tpv_fetch(perf->source, perf->artifact, view, &perf->fetch, memory, &result);
        if (status != TPV_OK || round < 0) continue;
        rates->stream[round] = rate;
        rates->fetch[round] = (double)bytes / 1e9 / result.seconds;
    }
    if (status == TPV_OK) print_row(perf, view, rates, &result);
    munmap(memory, bytes);
    free(rates);
    return status;
}

static tpv_status_t judge(const perf_t *perf) {
    if (!perf->address || !perf->name || !perf->plan.tp_size)
        return tpv_error_set(TPV_ERR_ARGUMENT, "--source, --artifact and --tp-size are needed");
    if (perf->only_rank >= (int64_t)perf->plan.tp_size)
        return tpv_error_set(TPV_ERR_ARGUMENT, "tp_rank %d is not in a group of tp_size %u", (int)perf->only_rank,
                             perf->plan.tp_size);
    return TPV_OK;
}

static tpv_status_t run(perf_t *perf) {
    if (perf->token_file) TPV_TRY(tpv_cli_token(perf->token_file, &perf->token));
    if (!perf->fetch.chunk_bytes) perf->fetch.chunk_bytes = (uint64_t)tpv_param_int(TPV_PARAM_CHUNK_BYTES);
    perf->fetch.tp_size = perf->plan.tp_size;
    perf->connection.token = perf->token;
    TPV_TRY(tpv_source_open(perf->address, &perf->connection, &perf->source));
    TPV_TRY(tpv_source_artifact(perf->source, perf->name, 60, &perf->artifact));
    perf->rows = json_array();
    if (!perf->json) {
        printf("# tpview_perf %s: %s, tp_size %u, chunk %llu, comms %u, digests %s; medians of %lld rounds\n",
               tpv_version(), perf->name, perf->plan.tp_size, (unsigned long long)perf->fetch.chunk_bytes,
               perf->fetch.comms ? perf->fetch.comms : (unsigned)tpv_param_int(TPV_PARAM_COMMS),
               perf->fetch.no_digests ? "off" : "on", (long long)perf->rounds);
        printf("#%7s  %8s  %14s  %9s  %9s  %9s  %9s  %7s\n", "rank", "tensors", "size", "stream", "fetch", "fetch/",
               "wire/", "export");
        printf("#%7s  %8s  %14s  %9s  %9s  %9s  %9s\n", "", "", "(B)", "(GB/s)", "(GB/s)", "stream", "needed");
    }
    for (uint32_t rank = 0; rank < perf->plan.tp_size; rank++) {
        if (perf->only_rank >= 0 && rank != perf->only_rank) continue;
        tpv_view_t *view = NULL;
        perf->plan.tp_rank = perf->fetch.tp_rank = rank;
        TPV_TRY(tpv_view_plan(perf->artifact, &perf->plan, &view));
        tpv_status_t status = measure(perf, view);
        tpv_view_free(view);
        TPV_TRY(status);
    }
    if (perf->json) {
        tpv_cli_print_json(perf->rows);
        perf->rows = NULL;
    }
    return TPV_OK;
}

static tpv_status_t take(perf_t *perf, int option) {
    int64_t number = 0;
    tpv_status_t status = TPV_OK;
    switch (option) {
    case OPT_SOURCE:
        perf->address = optarg;
        break;
    case OPT_ARTIFACT:
        perf->name = optarg;
        break;
    case OPT_SIZE:
        status = tpv_parse_int("--tp-size", optarg, 1, TPV_MAX_TP_SIZE, &number);
        perf->plan.tp_size = (uint32_t)number;
        break;
    case OPT_RANK:
        return tpv_parse_int("--tp-rank", optarg, 0, TPV_MAX_TP_SIZE - 1, &perf->only_rank);
    case OPT_FUSE:
        perf->plan.fuse = true;
        break;
    case OPT_COMMS:
        status = tpv_parse_int("--comms", optarg, 1, TPV_MAX_COMMS, &number);
        perf->fetch.comms = (uint32_t)number;
        break;
    case OPT_CHUNK:
        status = tpv_parse_int("--chunk", optarg, TPV_MIN_CHUNK, TPV_MAX_CHUNK, &number);
        perf->fetch.chunk_bytes = (uint64_t)number;
        break;
    case OPT_NET:
        perf->fetch.net = optarg;
        break;
    case OPT_NO_DIGESTS:
        perf->fetch.no_digests = true;
        break;
    case OPT_TOKEN:
        perf->token_file = optarg;
        break;
    case OPT_TLS_CA:
        perf->connection.tls_ca = optarg;
        break;
    case OPT_TLS_CERT:
        perf->connection.tls_cert = optarg;
        break;
    case OPT_TLS_KEY:
        perf->connection.tls_key = optarg;
        break;
    case OPT_JSON:
        perf->json = true;
        break;
    case 'n':
        return tpv_parse_int("-n", optarg, 1, MOST_ITERATIONS, &perf->rounds);
    case 'w':
        return tpv_parse_int("-w", optarg, 0, MOST_ITERATIONS, &perf->warmup);
    default:
        break; /* not to be had: main has looked */
    }
    return status;
}

int main(int argc, char **argv) {
    perf_t perf = {.only_rank = -1, .rounds = 5, .warmup = 1};
    tpv_cli_begin("tpview_perf", argc, argv);
    opterr = 0;
    tpv_status_t status = tpv_params_check();
    for (int option; status == TPV_OK && (option = getopt_long(argc, argv, ":hn:w:", long_options, NULL)) != -1;) {
        if (option == OPT_HELP || option == 'h') {
            fputs(help, stdout);
            return tpv_cli_end(TPV_EXIT_OK);
        }
        if (option == '?' || option == ':') return tpv_cli_end(tpv_cli_bad_option(option, argv, long_options));
        status = take(&perf, option);
    }
    if (status == TPV_OK && optind < argc)
        status = tpv_error_set(TPV_ERR_ARGUMENT, "unexpected argument \"%s\"", argv[optind]);
    if (status == TPV_OK) status = judge(&perf);
    if (status == TPV_OK) status = run(&perf);
    json_decref(perf.rows);
    tpv_artifact_close(perf.artifact);
    tpv_source_close(perf.source);
    free(perf.token);
    return tpv_cli_end(status == TPV_OK ? TPV_EXIT_OK : tpv_cli_fail(status));
}

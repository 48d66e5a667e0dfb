/* tpview_net_perf: what a net plugin's comms carry, beside NCCL's own sockets, bare TCP and UCX, in one run. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/params.h"
#include "channel/net.h"
#include "tools/common/cli.h"
#include "tools/net_perf/table.h"

#define MESSAGES_MAX 1000000
#define LARGEST (INT64_C(1) << 30)
/* Messages of one measurement, where -n is not given. */
#define VOLUME (INT64_C(1) << 30)
#define FEWEST 16
#define MOST 80000

static const char help[] =
    "Usage: tpview_net_perf [OPTION...]\n"
    "\n"
    "Streams messages between two processes of this host over each of: the comms of one or more net plugins, NCCL's\n"
    "built-in Socket net, bare TCP (blocking send and recv of the same blocks over 1, 2 and 4 connections), and\n"
    "ucx_perftest where it is installed. All of them are measured by turns, round after round; the table shows "
    "medians,\n"
    "and in its last columns the ratios of each plugin to the Socket net and to the best bare TCP.\n"
    "\n"
    "  -b BYTES  smallest message (default 8K)       -e BYTES  largest message (default 4M)\n"
    "  -f FACTOR from one size to the next (default 2)\n"
    "  -n N      messages on each comm (default: as many as have 1G, from 16 to 80000)\n"
    "  -w N      messages before (default: twice as many as are in flight)\n"
    "  -c 0|1    check the bytes in a round that is not timed (default 1)\n"
    "  --rounds N         measurements of each, by turns (default 5)\n"
    "  --net NAME[,VARIABLE=VALUE...]   a plugin, and what to set in the environment of its processes; may be given\n"
    "                     several times (default: tpview)\n"
    "  --comms N          comms at the same time (default 1)\n"
    "  --in-flight N      messages posted at the same time on a comm (default 8)\n"
    "  --both             both directions at the same time; rates are of one of them\n"
    "  --pin              each of the two processes gets one half of the CPUs (not ucx_perftest's)\n"
    "  --nccl PATH        libnccl for the Socket net (default libnccl.so.2)\n"
    "  --no-nccl, --no-tcp, --no-ucx    leave one out\n"
    "  --json             print JSON\n"
    "\n"
    "Example: the plugin as it is and without its same-host transport\n"
    "  tpview_net_perf --net tpview --net tpview,TPVIEW_NET_LOCAL=0 -f 8\n";

enum {
    OPT_ROUNDS = 256,
    OPT_NET,
    OPT_COMMS,
    OPT_INFLIGHT,
    OPT_BOTH,
    OPT_PIN,
    OPT_NCCL,
    OPT_NO_NCCL,
    OPT_NO_TCP,
    OPT_NO_UCX,
    OPT_JSON,
    OPT_HELP
};

static const struct option long_options[] = {{"rounds", required_argument, NULL, OPT_ROUNDS},
                                             {"net", required_argument, NULL, OPT_NET},
                                             {"comms", required_argument, NULL, OPT_COMMS},
                                             {"in-flight", required_argument, NULL, OPT_INFLIGHT},
                                             {"both", no_argument, NULL, OPT_BOTH},
                                             {"pin", no_argument, NULL, OPT_PIN},
                                             {"nccl", required_argument, NULL, OPT_NCCL},
                                             {"no-nccl", no_argument, NULL, OPT_NO_NCCL},
                                             {"no-tcp", no_argument, NULL, OPT_NO_TCP},
                                             {"no-ucx", no_argument, NULL, OPT_NO_UCX},
                                             {"json", no_argument, NULL, OPT_JSON},
                                             {"help", no_argument, NULL, OPT_HELP},
                                             {NULL, 0, NULL, 0}};

typedef struct {
    int64_t smallest, largest, factor, messages, warmup, check, rounds, comms, inflight;
    const char *nets[TPV_PERF_NETS_MAX];
    unsigned net_count;
    const char *libnccl;
    bool both, pin, no_nccl, no_tcp, no_ucx, json;
} options_t;

static tpv_status_t take(void *user, int option) {
    options_t *options = user;
    switch (option) {
    case 'b':
        return tpv_parse_int("-b", optarg, 1, LARGEST, &options->smallest);
    case 'e':
        return tpv_parse_int("-e", optarg, 1, LARGEST, &options->largest);
    case 'f':
        return tpv_parse_int("-f", optarg, 2, LARGEST, &options->factor);
    case 'n':
        return tpv_parse_int("-n", optarg, 1, MESSAGES_MAX, &options->messages);
    case 'w':
        return tpv_parse_int("-w", optarg, 0, MESSAGES_MAX, &options->warmup);
    case 'c':
        return tpv_parse_int("-c", optarg, 0, 1, &options->check);
    case OPT_ROUNDS:
        return tpv_parse_int("--rounds", optarg, 1, TPV_PERF_ROUNDS_MAX, &options->rounds);
    case OPT_NET:
        if (options->net_count == TPV_PERF_NETS_MAX)
            return tpv_error_set(TPV_ERR_ARGUMENT, "--net can be given %d times", TPV_PERF_NETS_MAX);
        options->nets[options->net_count++] = optarg;
        return TPV_OK;
    case OPT_COMMS:
        return tpv_parse_int("--comms", optarg, 1, 64, &options->comms);
    case OPT_INFLIGHT:
        return tpv_parse_int("--in-flight", optarg, 1, NCCL_NET_MAX_REQUESTS, &options->inflight);
    case OPT_BOTH:
        options->both = true;
        return TPV_OK;
    case OPT_PIN:
        options->pin = true;
        return TPV_OK;
    case OPT_NCCL:
        options->libnccl = optarg;
        return TPV_OK;
    case OPT_NO_NCCL:
        options->no_nccl = true;
        return TPV_OK;
    case OPT_NO_TCP:
        options->no_tcp = true;
        return TPV_OK;
    case OPT_NO_UCX:
        options->no_ucx = true;
        return TPV_OK;
    case OPT_JSON:
        options->json = true;
        return TPV_OK;
    default:
        break; /* not to be had: main has looked */
    }
    return TPV_OK;
}

static tpv_perf_subject_t *add(tpv_perf_table_t *table, const options_t *options, const tpv_perf_engine_t *engine,
                               const char *name) {
    tpv_perf_subject_t *subject = &table->subjects[table->subject_count++];
    snprintf(subject->name, sizeof subject->name, "%s", name);
    subject->engine = engine;
    subject->pinned = options->pin;
    subject->setup = (tpv_perf_setup_t){.comms = (unsigned)options->comms,
                                        .inflight = (unsigned)options->inflight,
                                        .largest = (size_t)options->largest,
                                        .both = options->both};
    return subject;
}

static tpv_status_t add_net(tpv_perf_table_t *table, const options_t *options, const char *text) {
    char *copy = strdup(text), *comma = copy ? strchr(copy, ',') : NULL;
    if (!copy) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory");
    tpv_perf_subject_t *subject = add(table, options, &tpv_perf_net_engine, copy);
    subject->setup.net = copy;
    subject->checked = true;
    if (!comma) return TPV_OK;
    *comma = '\0';
    subject->environment = comma + 1;
    return TPV_OK;
}

static tpv_status_t add_all(tpv_perf_table_t *table, const options_t *options) {
    for (unsigned i = 0; i < options->net_count; i++)
        TPV_TRY(add_net(table, options, options->nets[i]));
    table->net_count = table->subject_count;
    if (!options->no_nccl) {
        table->builtin = add(table, options, &tpv_perf_net_engine, "Socket");
        table->builtin->setup.libnccl = options->libnccl;
        table->builtin->checked = true;
    }
    static const unsigned connections[] = {1, 2, 4};
    for (size_t i = 0; i < sizeof connections / sizeof *connections && !options->no_tcp; i++) {
        char name[16];
        snprintf(name, sizeof name, "TCP x%u", connections[i]);
        tpv_perf_subject_t *subject = add(table, options, &tpv_perf_tcp_engine, name);
        subject->setup.connections = connections[i];
        if (!table->tcp) table->tcp = subject;
        table->tcp_count++;
    }
    if (!options->no_ucx && tpv_perf_ucx_installed()) table->ucx = add(table, options, NULL, "ucx cma");
    if (table->ucx && (options->comms > 1 || options->both))
        snprintf(table->ucx->lost, sizeof table->ucx->lost, "ucx_perftest has one stream, one way only");
    return TPV_OK;
}

static void measure(tpv_perf_table_t *table, const options_t *options, uint64_t size) {
    int64_t fitting = VOLUME / (int64_t)size;
    tpv_perf_order_t order = {.size = size, .messages = (uint64_t)options->messages};
    if (!order.messages) order.messages = (uint64_t)(fitting < FEWEST ? FEWEST : fitting > MOST ? MOST : fitting);
    uint64_t warmup = (uint64_t)(options->warmup < 0 ? 2 * options->inflight : options->warmup);
    tpv_perf_order_t check = {.size = size, .messages = 4 * (uint64_t)options->inflight, .check = true};
    double ignored = 0;
    for (unsigned i = 0; i < table->subject_count; i++) {
        tpv_perf_subject_t *subject = &table->subjects[i];
        subject->rounds = 0;
        subject->wrong = 0;
        if (options->check && subject->checked) tpv_perf_subject_run(subject, &check, 0, &ignored);
    }
    for (int64_t round = 0; round < options->rounds; round++) {
        for (unsigned i = 0; i < table->subject_count; i++) {
            tpv_perf_subject_t *subject = &table->subjects[i];
            tpv_perf_subject_run(subject, &order, warmup, &subject->rates[subject->rounds]);
            if (!*subject->lost) subject->rounds++;
        }
    }
    tpv_perf_table_row(table, &order);
}

static tpv_status_t run(const options_t *options) {
    tpv_perf_table_t table = {.json = options->json, .checked = options->check};
    if (options->smallest > options->largest) return tpv_error_set(TPV_ERR_ARGUMENT, "-b is larger than -e");
    tpv_status_t status = add_all(&table, options);
    for (unsigned i = 0; i < table.subject_count; i++)
        if (status == TPV_OK && !*table.subjects[i].lost) tpv_perf_subject_start(&table.subjects[i]);
    if (status == TPV_OK) {
        tpv_perf_table_begin(&table, options->rounds);
        for (int64_t size = options->smallest; size <= options->largest; size *= options->factor)
            measure(&table, options, (uint64_t)size);
        status = tpv_perf_table_end(&table);
    }
    for (unsigned i = 0; i < table.subject_count; i++) {
        tpv_perf_subject_stop(&table.subjects[i]);
        if (i < table.net_count) free((void *)(uintptr_t)table.subjects[i].setup.net);
    }
    return status;
}

int main(int argc, char **argv) {
    options_t options = {.smallest = 8 << 10,
                         .largest = 4 << 20,
                         .factor = 2,
                         .warmup = -1,
                         .check = 1,
                         .rounds = 5,
                         .comms = 1,
                         .inflight = 8,
                         .libnccl = "libnccl.so.2"};
    tpv_cli_begin("tpview_net_perf", argc, argv);
    int code = TPV_EXIT_FAILURE;
    if (tpv_cli_options(argc, argv, ":hb:e:f:n:w:c:", long_options, OPT_HELP, help, take, &options, &code)) {
        if (options.net_count == 0) options.nets[options.net_count++] = "tpview";
        tpv_status_t status = run(&options);
        code = status == TPV_OK ? TPV_EXIT_OK : tpv_cli_fail(status);
    }
    return tpv_cli_end(code);
}

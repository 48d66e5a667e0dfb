/* Measures real ncclSend and ncclRecv between two processes on a machine without a GPU, over one network after the
 * other: the project's plugin, NCCL's own Socket network, or another plugin. The simulated device's copies take part of
 * the time, as a GPU's would not, the same for every network. */
#include "simgpu/ranks.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MAX_NETWORKS = 4, MAX_RUNS = 101, WARM_UP = 2 };

/* What both ranks are told; seconds per iteration come back from rank 0. */
struct measurement {
    size_t size;
    int iterations;
    bool both_ways;
    double seconds;
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void measure(struct rank *rank) {
    struct measurement *measurement = rank->argument;
    const struct nccl *nccl = rank->nccl;
    const size_t size = measurement->size;
    const int peer = 1 - rank->index;
    const bool sends = rank->index == 0 || measurement->both_ways,
               receives = rank->index == 1 || measurement->both_ways;
    nccl_comm_t comm = rank_join(rank, 0);
    sim_stream_t *stream = sim_stream_create();
    unsigned char *sent = rank_allocate(size), *received = rank_allocate(size);
    rank_fill(sent, size, (unsigned)rank->index);
    double begin = 0;
    for (int i = 0; i < WARM_UP + measurement->iterations; i++) {
        if (i == WARM_UP) {
            sim_stream_synchronize(stream);
            rank_barrier(rank);
            begin = now();
        }
        RANK_CHECK(rank, nccl->GroupStart());
        if (sends) RANK_CHECK(rank, nccl->Send(sent, size, NCCL_UINT8, peer, comm, stream));
        if (receives) RANK_CHECK(rank, nccl->Recv(received, size, NCCL_UINT8, peer, comm, stream));
        RANK_CHECK(rank, nccl->GroupEnd());
    }
    sim_stream_synchronize(stream);
    rank_barrier(rank);
    if (rank->index == 0) measurement->seconds = (now() - begin) / measurement->iterations;
    if (receives) rank_verify(received, size, (unsigned)peer, "measured transfer");
    RANK_CHECK(rank, nccl->CommDestroy(comm));
    sim_stream_destroy(stream);
}

static int compare(const void *left, const void *right) {
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void usage(FILE *stream) {
    fputs(
        "Usage: sendrecv_bw --library LIBNCCL [--net NAME]... [--bytes N[K|M|G]] [--iters N] [--runs N] [--one-way]\n"
        "  --library PATH   libnccl.so.2 to run (scripts/get-nccl fetches one)\n"
        "  --net NAME       network to use, repeatable: TPView (the plugin beside this program), Socket (NCCL's own),\n"
        "                   or the name of the plugin in NCCL_NET_PLUGIN; default: Socket and TPView\n"
        "  --bytes N        size of a message (64M)\n"
        "  --iters N        messages per run (10)\n"
        "  --runs N         runs per network, which take turns (5)\n"
        "  --one-way        rank 0 sends only; default: both ranks send and receive at once\n",
        stream);
}

static bool parse_number(const char *text, uint64_t most, uint64_t *value) {
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    if (errno || end == text || *text == '-' || end[shift > 0] || number > most >> shift || number == 0) {
        fprintf(stderr, "sendrecv_bw: %s is not a number from 1 to %" PRIu64 "\n", text, most);
        return false;
    }
    *value = number << shift;
    return true;
}

/* Chooses the network for the next run. The plugin is the one of the same build, two folders up. */
static void choose_network(const char *network) {
    char program[PATH_MAX - 64] = "", plugin[PATH_MAX];
    setenv("TEST_NET", network, 1);
    if (strcmp(network, "Socket") == 0) {
        setenv("NCCL_NET_PLUGIN", "none", 1);
    } else if (strcmp(network, "TPView") == 0 && readlink("/proc/self/exe", program, sizeof program - 1) > 0) {
        snprintf(plugin, sizeof plugin, "%s/../../lib/libnccl-net-tpview.so", dirname(program));
        setenv("NCCL_NET_PLUGIN", plugin, 1);
    }
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"library", required_argument, NULL, 'l'}, {"net", required_argument, NULL, 'n'},
        {"bytes", required_argument, NULL, 'b'},   {"iters", required_argument, NULL, 'i'},
        {"runs", required_argument, NULL, 'r'},    {"one-way", no_argument, NULL, 'o'},
        {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0},
    };
    const char *networks[MAX_NETWORKS] = {"Socket", "TPView"}, *library = NULL;
    uint64_t size = 64 << 20, iterations = 10, runs = 5;
    bool both_ways = true, well = true;
    int given = 0;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'l':
            library = optarg;
            break;
        case 'n':
            well &= given < MAX_NETWORKS;
            if (well) networks[given++] = optarg;
            break;
        case 'b':
            well &= parse_number(optarg, UINT64_C(1) << 32, &size);
            break;
        case 'i':
            well &= parse_number(optarg, 100000, &iterations);
            break;
        case 'r':
            well &= parse_number(optarg, MAX_RUNS, &runs);
            break;
        case 'o':
            both_ways = false;
            break;
        case 'h':
            usage(stdout);
            return 0;
        default:
            well = false;
        }
    }
    if (!well || !library || optind != argc) {
        usage(stderr);
        return 2;
    }
    setenv("TEST_LIBNCCL", library, 1);
    scenario_require_nccl();
    struct measurement *measurement =
        mmap(NULL, sizeof *measurement, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (measurement == MAP_FAILED) {
        perror("sendrecv_bw: shared memory");
        return 1;
    }
    *measurement = (struct measurement){.size = size, .iterations = (int)iterations, .both_ways = both_ways};

    const int network_count = given ? given : 2;
    static double rates[MAX_NETWORKS][MAX_RUNS]; /* GB/s, 1e9 bytes */
    printf("%" PRIu64 " bytes, %s, %" PRIu64 " messages a run; GB/s in each direction\n", size,
           both_ways ? "both ways" : "one way", iterations);
    printf("%-5s", "run");
    for (int n = 0; n < network_count; n++)
        printf(" %10s", networks[n]);
    for (unsigned run = 0; run < runs; run++) {
        printf("\n%-5u", run + 1);
        for (int n = 0; n < network_count; n++) {
            choose_network(networks[n]);
            if (!scenario_run(
                    &(struct scenario){.rank_count = 2, .run = measure, .argument = measurement, .seconds = 600}))
                return 1;
            rates[n][run] = (double)size / measurement->seconds / 1e9;
            printf(" %10.2f", rates[n][run]);
            fflush(stdout);
        }
    }
    printf("\n%-5s", "median");
    for (int n = 0; n < network_count; n++) {
        qsort(rates[n], runs, sizeof rates[n][0], compare);
        printf(" %*.2f", n ? 10 : 9, rates[n][runs / 2]);
    }
    printf("\n%-5s", "ratio");
    for (int n = 0; n < network_count; n++)
        printf(" %10.2f", rates[n][runs / 2] / rates[0][runs / 2]);
    printf("\n");
    return 0;
}

#include "simgpu/ranks.h"

#include "simgpu/fatal.h"
#include "simgpu/kernel_args.h"
#include "simgpu/kernel_lane.h"
#include "simgpu/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What the ranks of a scenario share. */
struct board {
    nccl_unique_id_t ids[RANKS_IDS];
    _Atomic int id_ready[RANKS_IDS];      /* set by rank 0 with release, after the id */
    _Atomic unsigned arrivals[RANKS_MAX]; /* of each rank at barriers */
};

struct process {
    pid_t pid;
    bool ended;
    int status;
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void pause_milliseconds(long milliseconds) {
    nanosleep(&(struct timespec){0, milliseconds * 1000000}, NULL);
}

/* ---- in a rank's process */

void rank_fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    _exit(1);
}

nccl_comm_t rank_join(struct rank *rank, int number) {
    struct board *board = rank->board;
    if (rank->index == 0) {
        RANK_CHECK(rank, rank->nccl->GetUniqueId(&board->ids[number]));
        atomic_store_explicit(&board->id_ready[number], 1, memory_order_release);
    }
    while (!atomic_load_explicit(&board->id_ready[number], memory_order_acquire))
        pause_milliseconds(1);
    nccl_comm_t comm;
    RANK_CHECK(rank, rank->nccl->CommInitRank(&comm, rank->count, board->ids[number], rank->index));
    return comm;
}

void rank_barrier(struct rank *rank) {
    struct board *board = rank->board;
    unsigned round = atomic_fetch_add_explicit(&board->arrivals[rank->index], 1, memory_order_acq_rel) + 1;
    for (int i = 0; i < rank->count; i++)
        while (atomic_load_explicit(&board->arrivals[i], memory_order_acquire) < round)
            pause_milliseconds(1);
}

void *rank_allocate(size_t size) {
    void *memory = sim_memory_create(size, SIM_MEMORY_DEVICE);
    if (!memory) rank_fail("out of memory: %zu bytes", size);
    return memory;
}

void rank_free(void *memory) {
    sim_memory_release(memory);
}

static unsigned char pattern(size_t place, unsigned seed) {
    return (unsigned char)(place * 7 + (place >> 4) * 3 + (place >> 16) * 11 + seed * 29 + 1);
}

void rank_fill(void *memory, size_t size, unsigned seed) {
    unsigned char *bytes = memory;
    for (size_t i = 0; i < size; i++)
        bytes[i] = pattern(i, seed);
}

void rank_verify(const void *memory, size_t size, unsigned seed, const char *what) {
    const unsigned char *bytes = memory;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != pattern(i, seed))
            rank_fail("%s: byte %zu of %zu is 0x%02x, not 0x%02x", what, i, size, bytes[i], pattern(i, seed));
}

void rank_expect_protocols(bool simple, bool ll) {
    unsigned long simple_moves = sim_lane_moves(NCCL_PROTOCOL_SIMPLE), ll_moves = sim_lane_moves(NCCL_PROTOCOL_LL);
    if (simple != (simple_moves > 0) || ll != (ll_moves > 0))
        rank_fail("NCCL used Simple for %lu moves and LL for %lu", simple_moves, ll_moves);
}

void rank_wait_error(struct rank *rank, nccl_comm_t comm, int seconds) {
    if (!nccl_reports_network_errors(rank->nccl)) return;
    for (double end = now() + seconds; now() < end; pause_milliseconds(1)) {
        int error = NCCL_SUCCESS;
        RANK_CHECK(rank, rank->nccl->CommGetAsyncError(comm, &error));
        if (error != NCCL_SUCCESS && error != NCCL_IN_PROGRESS) return;
    }
    rank_fail("the communicator reported no error in %d seconds", seconds);
}

void rank_wait_byte(const volatile unsigned char *byte, int seconds, const char *what) {
    for (double end = now() + seconds; !*byte; pause_milliseconds(1))
        if (now() > end) rank_fail("no %s in %d seconds", what, seconds);
}

/* NCCL's settings for a rank: a host of its own, the network on the loopback device, nothing that needs a GPU, and a
 * log to read. A value that is already in the environment wins. */
static void set_environment(const struct scenario *scenario, int rank, const char *folder) {
    char host[24], log[512];
    snprintf(host, sizeof host, "host-%d", rank);
    snprintf(log, sizeof log, "%s/nccl-%d.log", folder, rank);
    setenv("NCCL_HOSTID", host, 1);
    setenv("NCCL_DEBUG_FILE", log, 1);
    setenv("NCCL_DEBUG", "INFO", 1);
    setenv("NCCL_DEBUG_SUBSYS", "INIT,NET,ENV", 1);
    setenv("NCCL_NET", getenv("TEST_NET"), 1);
    for (const char *const *pair = scenario->environment; pair && *pair; pair += 2)
        setenv(pair[0], pair[1], 1);
    static const char *const defaults[][2] = {
        {"NCCL_SOCKET_IFNAME", "lo"}, {"NCCL_IB_DISABLE", "1"},           {"NCCL_CUMEM_ENABLE", "0"},
        {"NCCL_ALGO", "Ring"},        {"NCCL_CUMEM_HOST_ENABLE", "0"},    {"NCCL_PROTO", "Simple"},
        {"NCCL_NVLS_ENABLE", "0"},    {"NCCL_NET_PLUGIN_REF_COUNT", "1"},
    };
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        setenv(defaults[i][0], defaults[i][1], 0);
}

static _Noreturn void rank_main(const struct scenario *scenario, int index, struct board *board, const char *folder) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char path[512];
    snprintf(path, sizeof path, "%s/output-%d.txt", folder, index);
    int output = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (output < 0) _exit(1);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    set_environment(scenario, index, folder);
    struct rank rank = {index, scenario->rank_count, nccl_load(getenv("TEST_LIBNCCL")), board, scenario->argument};
    scenario->run(&rank);
    fflush(NULL);
    _exit(0);
}

/* ---- in the test */

void scenario_require_nccl(void) {
    const char *path = getenv("TEST_LIBNCCL");
    if (!path || access(path, R_OK)) {
        printf("skipped: no libnccl.so.2 (TEST_LIBNCCL=%s); scripts/get-nccl fetches one\n", path ? path : "");
        exit(77);
    }
    setenv("TEST_NET", "Socket", 0);
}

static void show(const char *folder, const char *name, int rank) {
    char path[512], line[512];
    snprintf(path, sizeof path, "%s/%s-%d.%s", folder, name, rank, strcmp(name, "nccl") == 0 ? "log" : "txt");
    FILE *file = fopen(path, "r");
    if (!file) return;
    fprintf(stderr, "---- %s of rank %d\n", name, rank);
    while (fgets(line, sizeof line, file))
        fputs(line, stderr);
    fclose(file);
}

/* Waits for the ranks until the deadline, and kills those that are late. Returns whether all ended as they should. */
static bool wait_for_ranks(const struct scenario *scenario, struct process *processes) {
    const int count = scenario->rank_count, seconds = scenario->seconds ? scenario->seconds : 60;
    const double end = now() + seconds;
    bool well = true;
    for (int left = count; left;) {
        bool late = now() > end;
        for (int i = 0; i < count; i++) {
            struct process *process = &processes[i];
            if (process->ended) continue;
            if (late || !well) kill(process->pid, SIGKILL);
            if (waitpid(process->pid, &process->status, late || !well ? 0 : WNOHANG) != process->pid) continue;
            process->ended = true;
            left--;
            bool as_expected = i + 1 == scenario->killed_rank
                                   ? WIFSIGNALED(process->status)
                                   : WIFEXITED(process->status) && !WEXITSTATUS(process->status);
            if (late)
                fprintf(stderr, "rank %d was still running after %d seconds\n", i, seconds);
            else if (!as_expected && well)
                fprintf(stderr, "rank %d ended with wait status 0x%x\n", i, process->status);
            well &= as_expected && !late;
        }
        pause_milliseconds(2);
    }
    return well;
}

/* Whether a rank's NCCL log names the wanted network wherever it says which one is used. */
static bool check_log(const struct scenario *scenario, const char *folder, int rank) {
    char path[512], line[1024], via[64];
    const char *network = getenv("TEST_NET");
    snprintf(path, sizeof path, "%s/nccl-%d.log", folder, rank);
    snprintf(via, sizeof via, "via NET/%s/", network);
    int used = 0, channels = 0;
    bool other = false;
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        const char *using = strstr(line, "Using network ");
        if (using) {
            using += strlen("Using network ");
            bool wanted = strncmp(using, network, strlen(network)) == 0 && strchr(" \n", using[strlen(network)]);
            used += wanted;
            other |= !wanted;
        }
        if (strstr(line, "via NET/")) {
            channels += strstr(line, via) != NULL;
            other |= strstr(line, via) == NULL;
        }
    }
    if (file) fclose(file);
    int wanted_uses = scenario->networks ? scenario->networks : 1;
    if (used >= wanted_uses && channels > 0 && !other) return true;
    fprintf(stderr,
            "rank %d: NCCL's log says %d times (at least %d wanted) that network %s is used, has %d channels via "
            "it%s\n",
            rank, used, wanted_uses, network, channels, other ? ", and names another network" : "");
    return false;
}

static void remove_folder(const char *folder) {
    static const char *const names[] = {"nccl-%d.log", "output-%d.txt"};
    for (int i = 0; i < RANKS_MAX; i++) {
        for (size_t n = 0; n < 2; n++) {
            char name[32], path[512];
            snprintf(name, sizeof name, names[n], i);
            snprintf(path, sizeof path, "%s/%s", folder, name);
            unlink(path);
        }
    }
    rmdir(folder);
}

bool scenario_run(const struct scenario *scenario) {
    const char *parent = getenv("TEST_LOGS");
    char folder[256];
    snprintf(folder, sizeof folder, "%s/ranks-XXXXXX", parent ? parent : "/tmp");
    struct board *board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED || !mkdtemp(folder)) {
        fprintf(stderr, "cannot make %s: %s\n", board == MAP_FAILED ? "shared memory" : folder, strerror(errno));
        return false;
    }
    struct process processes[RANKS_MAX] = {0};
    fflush(NULL);
    for (int i = 0; i < scenario->rank_count; i++) {
        processes[i].pid = fork();
        if (processes[i].pid == 0) rank_main(scenario, i, board, folder);
        if (processes[i].pid < 0) sim_fatal("fork: %s", strerror(errno));
    }
    bool well = wait_for_ranks(scenario, processes);
    for (int i = 0; i < scenario->rank_count && well; i++)
        if (i + 1 != scenario->killed_rank) well = check_log(scenario, folder, i);
    if (!well) {
        for (int i = 0; i < scenario->rank_count; i++) {
            show(folder, "output", i);
            show(folder, "nccl", i);
        }
    }
    munmap(board, sizeof *board);
    if (!parent) remove_folder(folder);
    return well;
}

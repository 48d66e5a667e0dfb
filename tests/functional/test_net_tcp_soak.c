/* Random sizes, many requests in flight, tests in random order, on several comms, between two threads. The seed is
 * printed and can be given back by TEST_SEED. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "common/net_plugin.h"

enum { COMMS = 3, MESSAGES = 400, IN_FLIGHT = NCCL_NET_MAX_REQUESTS };
#define LARGEST ((size_t)8 << 20)
#define SECONDS 120

static net_plugin_t net;
static uint64_t seed;

static uint64_t next(uint64_t *random) {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

/* Both ends know the size of the n-th message of a comm. Small ones are frequent, large ones carry most bytes. */
static size_t size_of(int comm, int message) {
    uint64_t random = seed + (uint64_t)comm * 7919 + (uint64_t)message * 104729;
    for (int i = 0; i < 4; i++)
        next(&random);
    switch (random % 16) {
    case 0:
        return 0;
    case 1:
        return LARGEST - (random >> 8) % 4096;
    case 2:
    case 3:
        return (random >> 8) % LARGEST;
    case 4:
    case 5:
    case 6:
    case 7:
        return (random >> 8) % 200000;
    default:
        return (random >> 8) % 300;
    }
}

typedef struct {
    void *request;
    int message;
    char *buffer;
} slot_t;

typedef struct {
    bool sends;
    void *comms[COMMS];
    const char *failure;
    int64_t bytes;
} end_t;

/* Every message's bytes are a window of this, so that buffers need not be filled for each. */
static char *pattern;

static const char *window(int comm, int message) {
    return pattern + (comm * 31 + message * 17) % 4096;
}

static bool post(end_t *end, int comm, slot_t *slot, int message) {
    size_t size = size_of(comm, message);
    ncclResult_t result;
    if (end->sends) {
        result =
            net.isend(end->comms[comm], (void *)(uintptr_t)window(comm, message), size, 0, NULL, NULL, &slot->request);
    } else {
        size_t room = size + (size_t)(message % 3) * 64;
        slot->buffer = malloc(room + 1);
        void *data = slot->buffer, *registration = NULL;
        int tag = 0;
        memset(slot->buffer, 0x77, room + 1);
        result = net.irecv(end->comms[comm], 1, &data, &room, &tag, &registration, NULL, &slot->request);
    }
    slot->message = message;
    /* A sender may not have heard yet that its comm is accepted. */
    return result == ncclSuccess && (slot->request || (end->sends && message == 0));
}

static bool finished(end_t *end, int comm, slot_t *slot, int size) {
    size_t expected = size_of(comm, slot->message);
    slot->request = NULL;
    end->bytes += size;
    if ((size_t)size != expected) return false;
    if (end->sends) return true;
    bool good = memcmp(slot->buffer, window(comm, slot->message), expected) == 0;
    size_t room = expected + (size_t)(slot->message % 3) * 64;
    for (size_t i = expected; i <= room; i++)
        good = good && slot->buffer[i] == 0x77;
    free(slot->buffer);
    return good;
}

static void *run(void *argument) {
    end_t *end = argument;
    static const int depths[] = {IN_FLIGHT, 8, 1};
    slot_t slots[COMMS][IN_FLIGHT];
    int posted[COMMS] = {0}, complete = 0;
    uint64_t random = seed ^ (end->sends ? 0x5555 : 0xaaaa);
    int64_t deadline = tpv_deadline_in(SECONDS);
    memset(slots, 0, sizeof slots);
    while (complete < COMMS * MESSAGES) {
        if (tpv_deadline_passed(deadline)) {
            end->failure = "took too long";
            return NULL;
        }
        int comm = (int)(next(&random) % COMMS);
        slot_t *slot = &slots[comm][next(&random) % (uint64_t)depths[comm]];
        if (!slot->request) {
            if (posted[comm] == MESSAGES) continue;
            if (!post(end, comm, slot, posted[comm])) {
                end->failure = "a request was refused";
                return NULL;
            }
            if (slot->request) posted[comm]++;
            continue;
        }
        int done = 0, size = -1;
        if (net.test(slot->request, &done, &size) != ncclSuccess) {
            end->failure = "test failed";
            return NULL;
        }
        if (!done) {
            sched_yield();
            continue;
        }
        complete++;
        if (!finished(end, comm, slot, size)) {
            end->failure = "wrong size or bytes";
            return NULL;
        }
    }
    return NULL;
}

static void random_soak(void **state) {
    (void)state;
    net_pair_t pairs[COMMS];
    end_t ends[2] = {{.sends = true}, {.sends = false}};
    for (int i = 0; i < COMMS; i++) {
        assert_true(net_pair_open(&net, 0, &pairs[i]));
        ends[0].comms[i] = pairs[i].send;
        ends[1].comms[i] = pairs[i].receive;
    }
    pattern = malloc(LARGEST + 4096);
    net_fill(pattern, LARGEST + 4096, seed);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run, &ends[1]), 0);
    run(&ends[0]);
    pthread_join(thread, NULL);
    for (int i = 0; i < 2; i++)
        if (ends[i].failure)
            fail_msg("%s: %s (seed %llu)", i ? "receiver" : "sender", ends[i].failure, (unsigned long long)seed);
    assert_int_equal(ends[0].bytes, ends[1].bytes);
    for (int i = 0; i < COMMS; i++)
        net_pair_close(&net, &pairs[i]);
    free(pattern);
}

int main(int argc, char **argv) {
    (void)argc;
    net_for_each_transport(argv);
    setenv("NCCL_SOCKET_IFNAME", "=lo", 1);
    const char *given = getenv("TEST_SEED");
    if (given)
        seed = strtoull(given, NULL, 10);
    else if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        return 1;
    seed |= 1;
    printf("seed %llu\n", (unsigned long long)seed);
    if (net_plugin_open(&net, net_plugin_path(NULL), 11) != ncclSuccess) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_soak)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    net_plugin_close(&net);
    return failed;
}

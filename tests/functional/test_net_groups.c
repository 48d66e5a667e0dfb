/* Grouped receives: tags choose the place, sizes are told for each member, and a sender that runs ahead with one tag
 * holds up no other. Driven through the ABI versions whose irecv differs. The seed of the random test is printed and
 * can be given back by TEST_SEED. */
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

enum { MEMBERS = 8, GROUPS = NCCL_NET_MAX_REQUESTS };

static net_plugin_t net;
static net_pair_t pair;
static int version;
static uint64_t seed;

static int open_plugin(void **state) {
    (void)state;
    return net_plugin_open(&net, net_plugin_path(NULL), version) == ncclSuccess ? 0 : -1;
}

static int close_plugin(void **state) {
    (void)state;
    net_plugin_close(&net);
    return 0;
}

static int open_pair(void **state) {
    (void)state;
    net_log_clear();
    return net_pair_open(&net, 0, &pair) ? 0 : -1;
}

static int close_pair(void **state) {
    (void)state;
    net_pair_close(&net, &pair);
    return 0;
}

/* NULL when the plugin says to come again. */
static void *try_send(const void *data, size_t size, int tag) {
    void *request = &request;
    assert_int_equal(net.isend(pair.send, (void *)(uintptr_t)data, size, tag, NULL, NULL, &request), ncclSuccess);
    return request;
}

/* The first tag of a comm is not asked for, but the sender may not have heard yet that it is accepted. */
static void *send_first(const void *data, size_t size, int tag) {
    void *request;
    for (int64_t deadline = tpv_deadline_in(20); !(request = try_send(data, size, tag));)
        assert_false(tpv_deadline_passed(deadline));
    return request;
}

static void *post_group(int count, void **data, size_t room, const int *tags) {
    void *request = &request, *registrations[MEMBERS] = {0};
    size_t sizes[MEMBERS];
    for (int i = 0; i < count; i++)
        sizes[i] = room;
    assert_int_equal(net.irecv(pair.receive, count, data, sizes, (int *)(uintptr_t)tags, registrations, NULL, &request),
                     ncclSuccess);
    return request;
}

static void *post_one(void *data, size_t room, int tag) {
    return post_group(1, &data, room, &tag);
}

static void complete(void *request) {
    assert_non_null(request);
    assert_int_equal(net_wait(&net, request, 20, NULL), ncclSuccess);
}

/* Come again until the send is taken; the receiver has to be moved meanwhile, since both are on this thread. */
static void *send_at_last(const void *data, size_t size, int tag, void *receive) {
    void *request = NULL;
    int64_t deadline = tpv_deadline_in(10);
    while (!(request = try_send(data, size, tag))) {
        int done = 0;
        assert_false(tpv_deadline_passed(deadline));
        assert_int_equal(net.test(receive, &done, NULL), ncclSuccess);
        assert_int_equal(done, 0);
    }
    return request;
}

static void every_member_gets_its_own(void **state) {
    (void)state;
    enum { ROOM = 100000 };
    char *in = malloc(MEMBERS * ROOM), *out = malloc(ROOM);
    void *data[MEMBERS], *sends[MEMBERS];
    int tags[MEMBERS], sizes[MEMBERS + 1];
    memset(in, 0x3c, MEMBERS * ROOM);
    for (int i = 0; i < MEMBERS; i++) {
        data[i] = in + i * ROOM;
        tags[i] = 1000 - i * i;
    }
    void *group = post_group(MEMBERS, data, ROOM, tags);
    /* Youngest member first, with an empty message among them. */
    for (int i = MEMBERS - 1; i >= 0; i--) {
        size_t size = i == 3 ? 0 : (size_t)i * 9001 + 1;
        net_fill(out, size, (uint64_t)i);
        sends[i] = send_at_last(out, size, tags[i], group);
        sizes[MEMBERS] = 0x5a5a;
        /* `out` is used again for the next. */
        for (int64_t deadline = tpv_deadline_in(10);;) {
            int sent = 0, received = 0;
            assert_false(tpv_deadline_passed(deadline));
            if (i > 0) assert_int_equal(net.test(group, &received, NULL), ncclSuccess);
            assert_int_equal(received, 0);
            if (i == 0) assert_int_equal(net_wait_pair(&net, sends[i], group, 20, sizes), ncclSuccess), sent = 1;
            if (i > 0) assert_int_equal(net.test(sends[i], &sent, NULL), ncclSuccess);
            if (sent) break;
        }
    }
    assert_int_equal(sizes[MEMBERS], 0x5a5a);
    for (int i = 0; i < MEMBERS; i++) {
        size_t size = i == 3 ? 0 : (size_t)i * 9001 + 1;
        assert_int_equal(sizes[i], size);
        assert_true(net_check(data[i], size, (uint64_t)i));
        for (size_t k = size; k < ROOM; k++)
            assert_int_equal(((char *)data[i])[k], 0x3c);
    }
    free(in);
    free(out);
}

static void equal_tags_fill_in_order(void **state) {
    (void)state;
    char in[4] = {0};
    void *data[] = {&in[0], &in[1], &in[2], &in[3]};
    int tags[] = {5, 9, 5, 5}, sizes[4];
    void *group = post_group(4, data, 1, tags);
    complete(send_at_last("a", 1, 5, group));
    complete(send_at_last("b", 1, 5, group));
    complete(send_at_last("x", 1, 9, group));
    complete(send_at_last("c", 1, 5, group));
    assert_int_equal(net_wait(&net, group, 20, sizes), ncclSuccess);
    assert_memory_equal(in, "axbc", 4);
    /* Without any difference there is nothing to wait for. */
    int same[] = {5, 5, 5, 5};
    group = post_group(4, data, 1, same);
    for (int i = 0; i < 4; i++)
        complete(send_at_last(&"defg"[i], 1, 5, group));
    complete(group);
    assert_memory_equal(in, "defg", 4);
}

static void a_second_tag_waits_until_it_is_asked_for(void **state) {
    (void)state;
    char in[2] = {0};
    int done = 0;
    void *first = post_one(&in[0], 1, 1);
    complete(send_first("a", 1, 1));
    assert_null(try_send("b", 1, 2));
    complete(first);
    void *more = post_one(&in[0], 1, 1);
    for (int i = 0; i < 1000; i++) {
        assert_null(try_send("b", 1, 2));
        assert_int_equal(net.test(more, &done, NULL), ncclSuccess);
        assert_int_equal(done, 0);
    }
    void *second = post_one(&in[1], 1, 2);
    complete(send_at_last("b", 1, 2, second));
    complete(second);
    complete(send_at_last("c", 1, 1, more));
    complete(more);
    assert_memory_equal(in, "cb", 2);
}

static void groups_are_done_out_of_order(void **state) {
    (void)state;
    char in[3] = {0};
    void *one = post_one(&in[0], 1, 1), *two = post_one(&in[1], 1, 2), *three = post_one(&in[2], 1, 3);
    complete(send_at_last("3", 1, 3, one));
    complete(three);
    complete(send_at_last("2", 1, 2, one));
    complete(two);
    /* Their places are free again although the oldest still waits. */
    void *again[GROUPS - 1];
    char more[GROUPS];
    for (int i = 0; i < GROUPS - 1; i++) {
        again[i] = post_one(&more[i], 1, 4);
        assert_non_null(again[i]);
    }
    assert_null(post_one(&more[GROUPS - 1], 1, 4));
    for (int i = 0; i < GROUPS - 1; i++)
        complete(send_at_last(&"x"[0], 1, 4, one));
    for (int i = GROUPS - 2; i >= 0; i--)
        complete(again[i]);
    complete(send_at_last("1", 1, 1, one));
    complete(one);
    assert_memory_equal(in, "123", 3);
}

static void the_first_tag_of_each_side_may_differ(void **state) {
    (void)state;
    char in[2] = {0};
    void *second = post_one(&in[1], 1, 20);
    complete(send_first("a", 1, 10)); /* nobody asked for it yet, but it is the first tag */
    assert_null(try_send("b", 1, 20));
    complete(send_at_last("b", 1, 20, second));
    complete(second);
    complete(post_one(&in[0], 1, 10));
    assert_memory_equal(in, "ab", 2);
    /* From now on it is asked for like the others. */
    assert_null(try_send("c", 1, 10));
    void *third = post_one(&in[0], 1, 10);
    complete(send_at_last("c", 1, 10, third));
    complete(third);
    assert_int_equal(in[0], 'c');
}

/* What would be stuck for good if the stream could not be read past a message that nobody has asked for. */
static void running_ahead_holds_nobody_up(void **state) {
    (void)state;
    enum { AHEAD = 40, SIZE = 50000 };
    char *out = malloc(AHEAD * SIZE), *in = malloc(AHEAD * SIZE), slow = 0;
    void *sends[AHEAD], *data[] = {in, &slow};
    int tags[] = {1, 2}, sizes[2];
    for (int i = 0; i < AHEAD; i++) {
        net_fill(out + i * SIZE, SIZE, (uint64_t)i);
        sends[i] = i ? try_send(out + i * SIZE, SIZE, 1) : send_first(out, SIZE, 1);
        assert_non_null(sends[i]);
    }
    void *group = post_group(2, data, SIZE, tags);
    complete(send_at_last("s", 1, 2, group));
    assert_int_equal(net_wait_pair(&net, sends[0], group, 20, sizes), ncclSuccess);
    assert_int_equal(sizes[0], SIZE);
    assert_int_equal(sizes[1], 1);
    assert_int_equal(slow, 's');
    for (int i = 1; i < AHEAD && net_is_tcp(); i++)
        complete(sends[i]);
    for (int i = 1; i < AHEAD; i++) {
        int size = -1;
        void *receive = post_one(in + i * SIZE, SIZE + 1, 1);
        if (net_is_tcp())
            assert_int_equal(net_wait(&net, receive, 20, &size), ncclSuccess);
        else
            assert_int_equal(net_wait_pair(&net, sends[i], receive, 20, &size), ncclSuccess);
        assert_int_equal(size, SIZE);
    }
    assert_memory_equal(in, out, AHEAD * SIZE);
    /* One more receive is one more message, not one for each that came early. */
    assert_null(try_send(out, 1, 1));
    void *last = post_one(in, 1, 1);
    complete(send_at_last(out, 1, 1, last));
    complete(last);
    assert_null(try_send(out, 1, 1));
    free(out);
    free(in);
}

/* A receive can be posted for a message whose first part is in memory already. */
static void an_early_message_that_is_still_coming_in(void **state) {
    (void)state;
    enum { SIZE = 16 << 20 };
    char *out = malloc(SIZE), *in = calloc(2, SIZE), other = 0, next_one = 0;
    int done = 0, size = -1;
    net_fill(out, SIZE, 3);
    void *asked = post_one(&other, 1, 2), *big = send_first(out, SIZE, 1), *small = try_send("n", 1, 1);
    assert_non_null(small);
    /* Until it has begun: the sender hears that the other tag is asked for, which needs the header to have come. */
    int64_t deadline = tpv_deadline_in(10);
    void *request = NULL;
    while (!request) {
        assert_false(tpv_deadline_passed(deadline));
        assert_int_equal(net.test(asked, &done, NULL), ncclSuccess);
        request = try_send("o", 1, 2);
    }
    void *receive = post_one(in, SIZE, 1), *second = post_one(&next_one, 1, 1);
    for (bool received = false, sent = false; !received || !sent;) {
        assert_false(tpv_deadline_passed(deadline));
        if (!sent) assert_int_equal(net.test(big, &done, NULL), ncclSuccess), sent = done;
        if (!received) assert_int_equal(net.test(receive, &done, &size), ncclSuccess), received = done;
    }
    assert_int_equal(size, SIZE);
    assert_true(net_check(in, SIZE, 3));
    complete(small);
    complete(second);
    complete(request);
    complete(asked);
    assert_int_equal(next_one, 'n');
    assert_int_equal(other, 'o');
    free(out);
    free(in);
}

static void an_early_message_may_be_too_long(void **state) {
    (void)state;
    char in[64];
    void *other = post_one(in, 64, 2);
    complete(send_first("0123456789", 10, 1));
    complete(send_at_last("x", 1, 2, other));
    complete(other); /* so the first message has been read */
    void *request = &request, *data = in;
    size_t size = 9;
    int tag = 1;
    assert_int_equal(net.irecv(pair.receive, 1, &data, &size, &tag, NULL, NULL, &request), ncclInvalidUsage);
    assert_null(request);
    assert_int_equal(net_log_count("longer than the receive"), 1);
}

static void all_places_at_once(void **state) {
    (void)state;
    enum { ALL = GROUPS * MEMBERS };
    static uint32_t out[ALL], in[ALL];
    void *sends[ALL], *groups[GROUPS];
    memset(in, 0, sizeof in);
    for (int g = 0; g < GROUPS; g++) {
        void *data[MEMBERS];
        int tags[MEMBERS];
        for (int i = 0; i < MEMBERS; i++) {
            data[i] = &in[g * MEMBERS + i];
            tags[i] = g * MEMBERS + i;
        }
        groups[g] = post_group(MEMBERS, data, sizeof in[0], tags);
        assert_non_null(groups[g]);
    }
    for (int i = ALL - 1; i >= 0; i--) {
        out[i] = (uint32_t)i * 2654435761u;
        sends[i] = send_at_last(&out[i], sizeof out[i], i, groups[0]);
    }
    for (int i = 0; i < ALL; i++)
        complete(sends[i]);
    for (int g = GROUPS - 1; g >= 0; g--) {
        int sizes[MEMBERS];
        assert_int_equal(net_wait(&net, groups[g], 20, sizes), ncclSuccess);
        for (int i = 0; i < MEMBERS; i++)
            assert_int_equal(sizes[i], sizeof in[0]);
    }
    assert_memory_equal(in, out, sizeof in);
}

static void wrong_counts_are_refused(void **state) {
    (void)state;
    char in[MEMBERS + 1];
    void *data[MEMBERS + 1], *registrations[MEMBERS + 1] = {0}, *request = &request;
    size_t sizes[MEMBERS + 1];
    int tags[MEMBERS + 1], counts[] = {0, -1, MEMBERS + 1};
    for (int i = 0; i <= MEMBERS; i++) {
        data[i] = &in[i];
        sizes[i] = 1;
        tags[i] = i;
    }
    for (int i = 0; i < (version < 10 ? 2 : 3); i++) { /* our own adapter refuses the last one for old versions */
        request = &request;
        assert_int_equal(net.irecv(pair.receive, counts[i], data, sizes, tags, registrations, NULL, &request),
                         ncclInvalidUsage);
        assert_null(request);
    }
}

/* A sender that is not asked for anything hears of the end all the same. */
static void waiting_for_a_peer_that_is_gone(void **state) {
    (void)state;
    char in;
    post_one(&in, 1, 1);
    send_first("a", 1, 1);
    void *request;
    assert_null(try_send("b", 1, 2));
    net.closeRecv(pair.receive);
    pair.receive = NULL;
    /* Then isend gives a request, as NCCL's Socket transport does, whose test tells. */
    for (int64_t deadline = tpv_deadline_in(10); !(request = try_send(&in, 1, 2));)
        assert_false(tpv_deadline_passed(deadline));
    assert_int_equal(net_wait(&net, request, 20, NULL), ncclRemoteError);
    assert_int_equal(net_log_count("WARN"), 1);
}

/* Notices that come for a closed sender must not take back what it sent. */
static void a_sender_that_closes_early_loses_nothing(void **state) {
    (void)state;
    if (!net_is_tcp()) skip(); /* a send of that size is done when the receiver has it */
    enum { SIZE = 6 << 20, ROUNDS = 3 };
    char *out = malloc(SIZE), *in = malloc(2 * SIZE), mark[ROUNDS + 4];
    for (int round = 0; round < ROUNDS; round++) {
        int descriptors = net_open_descriptors();
        net_pair_t kept = pair;
        assert_true(net_pair_open(&net, 0, &pair));
        net_fill(out, SIZE, (uint64_t)round);
        void *data[] = {in, in + SIZE};
        int tags[] = {1, 2}, sizes[2];
        void *group = post_group(2, data, SIZE, tags);
        void *first = send_first(out, 1000, 1), *second = send_at_last(out, SIZE, 2, group);
        complete(first);
        /* Done here means that the kernel has it: the receiver may be through with the group by then, or not. */
        int received = 0;
        for (int64_t deadline = tpv_deadline_in(10);;) {
            int sent = 0;
            assert_false(tpv_deadline_passed(deadline));
            assert_int_equal(net.test(second, &sent, NULL), ncclSuccess);
            if (sent) break;
            if (!received) assert_int_equal(net.test(group, &received, sizes), ncclSuccess);
        }
        net.closeSend(pair.send);
        pair.send = NULL;
        void *never[4];
        for (int i = 0; i < 4; i++)
            never[i] = post_one(&mark[i], 1, 3 + i);
        if (!received) assert_int_equal(net_wait(&net, group, 20, sizes), ncclSuccess);
        assert_int_equal(sizes[0], 1000);
        assert_int_equal(sizes[1], SIZE);
        assert_true(net_check(in + SIZE, SIZE, (uint64_t)round));
        assert_int_equal(net_wait(&net, never[0], 20, NULL), ncclRemoteError);
        net_pair_close(&net, &pair);
        /* What lingered is gone at the latest with the next listener. */
        char handle[NCCL_NET_HANDLE_MAXSIZE];
        void *listener = NULL;
        for (int64_t deadline = tpv_deadline_in(10); net_open_descriptors() != descriptors;) {
            assert_false(tpv_deadline_passed(deadline));
            assert_int_equal(net_listen(&net, 0, handle, &listener), ncclSuccess);
            net.closeListen(listener);
        }
        pair = kept;
    }
    free(out);
    free(in);
}

/* ---- random groups of random tags, in the order in which each side happens to come to them ---- */

enum { TAGS = 6, MESSAGES = 1500, LARGEST = 70000 };

static uint64_t next(uint64_t *random) {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

static size_t size_of(int tag, int number) {
    uint64_t random = (seed + (uint64_t)tag * 7919 + (uint64_t)number * 104729) | 1;
    for (int i = 0; i < 4; i++)
        next(&random);
    return random % 4 ? random % 500 : random % LARGEST;
}

/* Both ends try again and again; on a loaded machine a round of both can take long. */
#define RANDOM_S 600

static char *pattern;

static const char *bytes_of(int tag, int number) {
    return pattern + (tag * 331 + number * 17) % 4096;
}

static void *random_sender(void *argument) {
    const char **failure = argument;
    enum { SLOTS = 64 };
    void *requests[SLOTS] = {0};
    int sent[TAGS] = {0}, posted = 0, done_count = 0;
    uint64_t random = seed;
    int64_t deadline = tpv_deadline_in(RANDOM_S);
    while (done_count < TAGS * MESSAGES) {
        if (tpv_deadline_passed(deadline)) {
            *failure = "the sender took too long";
            return NULL;
        }
        void **slot = &requests[next(&random) % SLOTS];
        /* One tag is in a hurry, so it is always far ahead of the others. */
        int tag = next(&random) % 3 ? 0 : (int)(next(&random) % TAGS), done = 0;
        if (*slot) {
            if (net.test(*slot, &done, NULL) != ncclSuccess) {
                *failure = "a send failed";
                return NULL;
            }
            if (done) {
                *slot = NULL;
                done_count++;
            } else {
                sched_yield();
            }
        } else if (sent[tag] < MESSAGES) {
            if (net.isend(pair.send, (void *)(uintptr_t)bytes_of(tag, sent[tag]), size_of(tag, sent[tag]), tag, NULL,
                          NULL, slot) != ncclSuccess) {
                *failure = "isend failed";
                return NULL;
            }
            if (*slot) {
                sent[tag]++;
                posted++;
            } else {
                sched_yield();
            }
        }
    }
    return NULL;
}

typedef struct {
    void *request;
    int count, tags[MEMBERS], numbers[MEMBERS];
    char *data[MEMBERS];
} posted_t;

static const char *check_group(posted_t *group, const int *sizes) {
    for (int i = 0; i < group->count; i++) {
        size_t size = size_of(group->tags[i], group->numbers[i]);
        if ((size_t)sizes[i] != size) return "a wrong size";
        if (memcmp(group->data[i], bytes_of(group->tags[i], group->numbers[i]), size) != 0) return "wrong bytes";
        free(group->data[i]);
    }
    return NULL;
}

static const char *random_receiver(void) {
    static posted_t groups[GROUPS];
    int expected[TAGS] = {0}, left = TAGS * MESSAGES, posted = 0;
    uint64_t random = seed ^ 0x777777;
    int64_t deadline = tpv_deadline_in(RANDOM_S);
    memset(groups, 0, sizeof groups);
    while (left > 0) {
        if (tpv_deadline_passed(deadline)) return "the receiver took too long";
        posted_t *group = &groups[next(&random) % GROUPS];
        if (group->request) {
            int done = 0, sizes[MEMBERS];
            if (net.test(group->request, &done, sizes) != ncclSuccess) return "a receive failed";
            if (!done) {
                sched_yield();
                continue;
            }
            group->request = NULL;
            left -= group->count;
            const char *wrong = check_group(group, sizes);
            if (wrong) return wrong;
            continue;
        }
        if (posted == TAGS * MESSAGES) continue;
        void *registrations[MEMBERS] = {0}, *data[MEMBERS];
        size_t rooms[MEMBERS];
        int wanted = 1 + (int)(next(&random) % MEMBERS), taken[TAGS] = {0};
        group->count = 0;
        for (int i = 0; i < wanted; i++) {
            int tag = (int)(next(&random) % TAGS);
            if (expected[tag] + taken[tag] == MESSAGES) continue;
            int member = group->count++, number = expected[tag] + taken[tag]++;
            group->tags[member] = tag;
            group->numbers[member] = number;
            rooms[member] = size_of(tag, number) + (size_t)(number % 5);
            data[member] = group->data[member] = malloc(rooms[member] + 1);
        }
        if (group->count == 0) continue;
        if (net.irecv(pair.receive, group->count, data, rooms, group->tags, registrations, NULL, &group->request) !=
            ncclSuccess)
            return "irecv failed";
        for (int i = 0; i < group->count && !group->request; i++)
            free(group->data[i]);
        for (int tag = 0; tag < TAGS && group->request; tag++)
            expected[tag] += taken[tag];
        if (group->request) posted += group->count;
    }
    return NULL;
}

static void random_groups(void **state) {
    (void)state;
    const char *sender_failure = NULL;
    pthread_t sender;
    assert_int_equal(pthread_create(&sender, NULL, random_sender, &sender_failure), 0);
    const char *receiver_failure = random_receiver();
    pthread_join(sender, NULL);
    if (sender_failure || receiver_failure)
        fail_msg("%s / %s (seed %llu)\n%s", sender_failure ? sender_failure : "",
                 receiver_failure ? receiver_failure : "", (unsigned long long)seed, net_log_text());
}

#define WITH_PAIR(test) cmocka_unit_test_setup_teardown(test, open_pair, close_pair)

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
    pattern = malloc(LARGEST + 4096);
    net_fill(pattern, LARGEST + 4096, seed);
    const struct CMUnitTest tests[] = {
        WITH_PAIR(every_member_gets_its_own),
        WITH_PAIR(equal_tags_fill_in_order),
        WITH_PAIR(a_second_tag_waits_until_it_is_asked_for),
        WITH_PAIR(groups_are_done_out_of_order),
        WITH_PAIR(the_first_tag_of_each_side_may_differ),
        WITH_PAIR(running_ahead_holds_nobody_up),
        WITH_PAIR(an_early_message_that_is_still_coming_in),
        WITH_PAIR(an_early_message_may_be_too_long),
        WITH_PAIR(all_places_at_once),
        WITH_PAIR(wrong_counts_are_refused),
        WITH_PAIR(waiting_for_a_peer_that_is_gone),
        WITH_PAIR(a_sender_that_closes_early_loses_nothing),
        WITH_PAIR(random_groups),
    };
    static const int versions[] = {6, 9, 12};
    int failed = 0;
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        char name[16];
        version = versions[i];
        snprintf(name, sizeof name, "v%d", version);
        failed += cmocka_run_group_tests_name(name, tests, open_plugin, close_plugin);
    }
    free(pattern);
    return failed ? 1 : 0;
}

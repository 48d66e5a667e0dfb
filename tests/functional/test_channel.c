/* The channel's streams over our plugin and over somebody else's: both ends in one process, on one thread. */
#include <dlfcn.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/error.h"
#include "channel/idle.h"
#include "channel/net.h"
#include "channel/stream.h"
#include "channel/wire.h"

#define DEADLINE_S 600.0 /* what a stream takes on a loaded machine */
#define RING_PLACES 3

/* ---- a source of chunks in memory ---- */

typedef struct {
    const tpv_stream_t *stream;
    const uint8_t *data;
    uint64_t fail_at; /* this chunk cannot be prepared */
    uint64_t lie_at;  /* this chunk's digest is wrong */
    unsigned asked, released;
    bool hesitate; /* every first ask of a chunk finds it unprepared */
    bool seen[1024];
} memory_t;

static tpv_status_t memory_get(void *user, uint32_t slot, uint64_t chunk, const void **data, uint64_t *digest) {
    memory_t *memory = user;
    assert_true(slot < memory->stream->comms * TPV_STREAM_WINDOW);
    *data = NULL;
    if (chunk == memory->fail_at) return tpv_error_set(TPV_ERR_FORMAT, "shard 7 was cut short");
    if (memory->hesitate && !memory->seen[chunk]) {
        memory->seen[chunk] = true;
        return TPV_OK;
    }
    memory->asked++;
    *data = memory->data + chunk * memory->stream->chunk_bytes;
    *digest = XXH3_64bits(*data, tpv_stream_chunk_length(memory->stream, chunk)) ^ (chunk == memory->lie_at);
    return TPV_OK;
}

static void memory_release(void *user, uint32_t slot) {
    (void)slot;
    ((memory_t *)user)->released++;
}

static tpv_status_t memory_refused(void *user, uint32_t slot, size_t region) {
    (void)user, (void)slot, (void)region;
    return tpv_error_prefix(TPV_ERR_NET, "no other memory");
}

/* ---- both ends ---- */

typedef struct {
    tpv_net_t *net;
    tpv_stream_t stream;
    uint8_t *source, *destination;
    tpv_region_t region; /* the source's */
    memory_t memory;
    bool through_ring;         /* the landing gives places in a ring only */
    uint32_t chunk_bytes;      /* as the landing was told */
    unsigned in_ring, arrived; /* places given, chunks that came */
    uint8_t *ring;
    bool busy[RING_PLACES];
    tpv_receiver_t *receiver;
    tpv_sender_t *sender;
} pair_t;

/* ---- a landing: straight in the destination, or through a ring that is soon full ---- */

static tpv_status_t landing_begin(void *user, uint32_t chunk_bytes) {
    pair_t *pair = user;
    assert_int_equal(pair->chunk_bytes, 0);
    pair->chunk_bytes = chunk_bytes;
    pair->ring = malloc((size_t)RING_PLACES * chunk_bytes);
    return TPV_OK;
}

static void *landing_place(void *user, uint64_t index, bool direct) {
    pair_t *pair = user;
    assert_true(index < tpv_stream_chunks(&pair->stream));
    if (direct && !pair->through_ring) return pair->destination + index * pair->chunk_bytes;
    for (size_t i = 0; i < RING_PLACES; i++) {
        if (pair->busy[i]) continue;
        pair->busy[i] = true;
        pair->in_ring++;
        return pair->ring + i * pair->chunk_bytes;
    }
    return NULL;
}

static tpv_status_t landing_arrived(void *user, uint64_t index, void *data, uint64_t digest) {
    pair_t *pair = user;
    uint64_t length = tpv_stream_chunk_length(&pair->stream, index);
    pair->arrived++;
    if (digest != XXH3_64bits(data, length))
        return tpv_error_set(TPV_ERR_DIGEST, "chunk %llu is wrong", (unsigned long long)index);
    if ((uint8_t *)data < pair->ring || (uint8_t *)data >= pair->ring + (size_t)RING_PLACES * pair->chunk_bytes)
        return TPV_OK;
    memcpy(pair->destination + index * pair->chunk_bytes, data, length);
    pair->busy[(size_t)((uint8_t *)data - pair->ring) / pair->chunk_bytes] = false;
    return TPV_OK;
}

static tpv_region_t landing_ring(void *user) {
    const pair_t *pair = user;
    return (tpv_region_t){pair->ring, (size_t)RING_PLACES * pair->chunk_bytes};
}

static void pair_prepare(pair_t *pair, const char *plugin, uint64_t bytes, uint32_t chunk, uint32_t comms) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("TEST_BUILD"), plugin);
    memset(pair, 0, sizeof *pair);
    if (tpv_net_open(path, &pair->net) != TPV_OK) fail_msg("%s", tpv_error_message());
    pair->stream = (tpv_stream_t){.comms = comms, .chunk_bytes = chunk, .bytes = bytes};
    assert_int_equal(tpv_id_random(pair->stream.id), TPV_OK);
    pair->source = malloc(bytes + 1);
    pair->destination = calloc(1, bytes + 1);
    for (uint64_t i = 0; i < bytes; i++)
        pair->source[i] = (uint8_t)(i * 2654435761u >> 13);
    pair->memory = (memory_t){.stream = &pair->stream, .data = pair->source, .fail_at = ~0ull, .lie_at = ~0ull};
}

static void pair_receive(pair_t *pair) {
    tpv_landing_t landing = {.user = pair,
                             .begin = landing_begin,
                             .place = landing_place,
                             .arrived = landing_arrived,
                             .ring = landing_ring,
                             .direct = {pair->destination, pair->stream.bytes}};
    if (tpv_receiver_open(pair->net, &pair->stream, &landing, &pair->receiver) != TPV_OK)
        fail_msg("%s", tpv_error_message());
}

static void pair_open(pair_t *pair, const char *plugin, uint64_t bytes, uint32_t chunk, uint32_t comms) {
    pair_prepare(pair, plugin, bytes, chunk, comms);
    pair_receive(pair);
}

/* `stream` is what the sender believes. */
static tpv_sender_t *sender_open(pair_t *pair, const tpv_stream_t *stream, uint32_t window) {
    uint8_t handles[TPV_STREAM_MAX_COMMS * NCCL_NET_HANDLE_MAXSIZE];
    for (uint32_t i = 0; i < stream->comms; i++)
        memcpy(handles + i * NCCL_NET_HANDLE_MAXSIZE, tpv_receiver_handle(pair->receiver, i), NCCL_NET_HANDLE_MAXSIZE);
    pair->region = (tpv_region_t){pair->source, pair->stream.bytes + 1};
    tpv_chunks_t chunks = {.user = &pair->memory,
                           .get = memory_get,
                           .release = memory_release,
                           .refused = memory_refused,
                           .window = window};
    tpv_sender_t *sender = NULL;
    assert_int_equal(tpv_sender_open(pair->net, stream, handles, &pair->region, 1, &chunks, &sender), TPV_OK);
    return sender;
}

/* Until both are done or the receiver fails; the sender's status may be asked for. */
static tpv_status_t pair_run(pair_t *pair, tpv_status_t *sender_status) {
    int64_t deadline = tpv_deadline_in(DEADLINE_S);
    tpv_idle_t idle = {0};
    bool sent = false, received = false;
    tpv_status_t status = TPV_OK, other = TPV_OK;
    while (!(sent && received)) {
        bool sent_some = false, received_some = false;
        if (!sent && other == TPV_OK) other = tpv_sender_advance(pair->sender, &sent_some, &sent);
        status = tpv_receiver_advance(pair->receiver, &received_some, &received);
        if (status != TPV_OK) break;
        tpv_idle_wait(&idle, sent_some || received_some, -1, deadline);
        if (tpv_deadline_passed(deadline)) fail_msg("the stream did not end; sender: %d", other);
    }
    if (sender_status) *sender_status = other;
    return status;
}

static void pair_close(pair_t *pair) {
    tpv_receiver_close(pair->receiver);
    tpv_sender_close(pair->sender);
    tpv_net_close(pair->net);
    free(pair->source);
    free(pair->destination);
    free(pair->ring);
}

static const char *const plugins[] = {"lib/libnccl-net-tpview.so", "tests/libtoynet.so"};

static void every_size_arrives(void **state) {
    (void)state;
    static const struct {
        uint64_t bytes;
        uint32_t chunk, comms, window;
        bool hesitate;
    } cases[] = {{0, 4096, 1, 4, false},         {1, 4096, 1, 1, false},       {4096, 4096, 1, 4, false},
                 {4097, 4096, 2, 4, true},       {3000000, 65536, 1, 1, true}, {3000000, 65536, 3, 4, false},
                 {1000001, 4096, 5, 8, true},    {700, 4096, 4, 2, false},     {5 << 20, 1 << 20, 2, 4, true},
                 {3 * 65536, 65536, 3, 8, false}};
    for (size_t p = 0; p < sizeof plugins / sizeof *plugins; p++) {
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            pair_t pair;
            pair_open(&pair, plugins[p], cases[i].bytes, cases[i].chunk, cases[i].comms);
            pair.memory.hesitate = cases[i].hesitate;
            pair.through_ring = i % 2;
            pair.sender = sender_open(&pair, &pair.stream, cases[i].window);
            tpv_status_t status = pair_run(&pair, NULL);
            if (status != TPV_OK) fail_msg("%s, case %zu: %s", plugins[p], i, tpv_error_message());
            assert_memory_equal(pair.source, pair.destination, cases[i].bytes + 0);
            uint64_t chunks = tpv_stream_chunks(&pair.stream);
            tpv_stream_counts_t got = tpv_receiver_counts(pair.receiver), sent = tpv_sender_counts(pair.sender);
            assert_int_equal(got.bytes, cases[i].bytes);
            assert_int_equal(got.chunks, chunks);
            assert_int_equal(got.wire,
                             cases[i].bytes + chunks * TPV_TRAILER_BYTES + cases[i].comms * sizeof(tpv_greeting_t));
            assert_int_equal(sent.bytes, got.bytes);
            assert_int_equal(sent.wire, got.wire);
            assert_int_equal(pair.memory.asked, chunks);
            assert_int_equal(pair.arrived, chunks);
            assert_int_equal(pair.in_ring, pair.through_ring ? chunks : 0);
            assert_int_equal(pair.memory.released, chunks);
            pair_close(&pair);
        }
    }
}

/* The receiver said how much it takes at most; the source's chunks are what the source wants. */
static void the_source_chooses_the_length_of_chunks(void **state) {
    (void)state;
    pair_t pair;
    pair_open(&pair, plugins[0], 1000001, 65536, 3);
    pair.stream.chunk_bytes = 4096;
    pair.sender = sender_open(&pair, &pair.stream, 4);
    if (pair_run(&pair, NULL) != TPV_OK) fail_msg("%s", tpv_error_message());
    assert_memory_equal(pair.source, pair.destination, pair.stream.bytes);
    assert_int_equal(pair.chunk_bytes, 4096);
    assert_int_equal(pair.arrived, 1000001 / 4096 + 1);
    pair_close(&pair);
}

static void silent_log(ncclDebugLogLevel level, unsigned long flags, const char *file, int line, const char *format,
                       ...) {
    (void)level, (void)flags, (void)file, (void)line, (void)format;
}

/* Our plugin as if this version were the newest that it has. */
static void reopen_with(tpv_net_t *net, const tpv_net_version_t *version) {
    assert_int_equal(net->abi.finalize(&net->abi, net->ctx), ncclSuccess);
    const void *table = dlsym(net->library, version->symbol);
    assert_non_null(table);
    version->bind(table, &net->abi);
    assert_int_equal(net->abi.init(&net->abi, &net->ctx, silent_log), ncclSuccess);
    assert_int_equal(net->abi.properties(&net->abi, net->device, &net->properties), ncclSuccess);
}

static void every_abi_version_moves_data(void **state) {
    (void)state;
    int number = 12;
    for (const tpv_net_version_t *version = tpv_net_versions; version->symbol; version++, number--) {
        pair_t pair;
        pair_prepare(&pair, plugins[0], 1000001, 65536, 2);
        reopen_with(pair.net, version);
        assert_int_equal(pair.net->abi.version, number);
        assert_string_equal(pair.net->abi.name, "TPView");
        assert_int_equal(pair.net->properties.max_receives, 8);
        assert_int_equal(pair.net->properties.max_message, 1 << 30);
        assert_true(pair.net->properties.speed > 0 && pair.net->properties.name[0]);
        pair_receive(&pair);
        pair.sender = sender_open(&pair, &pair.stream, 4);
        if (pair_run(&pair, NULL) != TPV_OK) fail_msg("%s: %s", version->symbol, tpv_error_message());
        assert_memory_equal(pair.source, pair.destination, pair.stream.bytes);
        pair_close(&pair);
    }
    assert_int_equal(number, 5);
}

static void sizes_that_an_old_version_cannot_tell_are_refused(void **state) {
    (void)state;
    tpv_net_t *net = NULL;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("TEST_BUILD"), plugins[0]);
    assert_int_equal(tpv_net_open(path, &net), TPV_OK);
    for (const tpv_net_version_t *version = tpv_net_versions; version->symbol; version++) {
        reopen_with(net, version);
        const tpv_net_abi_t *abi = &net->abi;
        void *request = NULL, *data[9] = {0}, *handles[9] = {0};
        size_t sizes[9] = {(size_t)INT_MAX + 1};
        int tags[9] = {0};
        /* No comm: the plugin must not be asked. */
        if (abi->version < 8)
            assert_int_equal(abi->regMr(abi, NULL, NULL, sizes[0], NCCL_PTR_HOST, &request), ncclInvalidArgument);
        if (abi->version < 9) {
            assert_int_equal(abi->isend(abi, NULL, NULL, sizes[0], 0, NULL, &request), ncclInvalidArgument);
            assert_int_equal(abi->irecv(abi, NULL, 1, data, sizes, tags, handles, &request), ncclInvalidArgument);
        }
        assert_int_equal(abi->irecv(abi, NULL, 9, data, sizes, tags, handles, &request), ncclInvalidArgument);
    }
    tpv_net_close(net);
}

static void a_wrong_digest_of_any_chunk_is_found(void **state) {
    (void)state;
    for (uint32_t comms = 1; comms <= 2; comms++) {
        for (uint64_t chunk = 0; chunk < 16; chunk++) {
            char named[32];
            pair_t pair;
            pair_open(&pair, plugins[0], 1000000, 65536, comms);
            assert_int_equal(tpv_stream_chunks(&pair.stream), 16);
            pair.memory.lie_at = chunk;
            pair.sender = sender_open(&pair, &pair.stream, 4);
            assert_int_equal(pair_run(&pair, NULL), TPV_ERR_DIGEST);
            snprintf(named, sizeof named, "chunk %d ", (int)chunk);
            assert_non_null(strstr(tpv_error_message(), named));
            pair_close(&pair);
        }
    }
}

static void the_source_tells_why_it_cannot_go_on(void **state) {
    (void)state;
    for (uint32_t comms = 1; comms <= 3; comms += 2) {
        pair_t pair;
        pair_open(&pair, plugins[0], 1000000, 65536, comms);
        pair.memory.fail_at = 5;
        pair.sender = sender_open(&pair, &pair.stream, 4);
        assert_int_equal(pair_run(&pair, NULL), TPV_ERR_FORMAT);
        assert_non_null(strstr(tpv_error_message(), "shard 7 was cut short"));
        pair_close(&pair);
    }
}

/* ---- a source that says what a test wants it to say ---- */

typedef struct {
    const tpv_net_abi_t *abi;
    void *comm;
    uint8_t block[8192]; /* registered */
    void *registration;
} raw_t;

/* Both ends a step further; what the receiver says. */
static tpv_status_t step(pair_t *pair, int64_t deadline) {
    bool moved = false, done = false;
    assert_false(tpv_deadline_passed(deadline));
    return tpv_receiver_advance(pair->receiver, &moved, &done);
}

static void raw_connect(pair_t *pair, raw_t *raw) {
    int64_t deadline = tpv_deadline_in(DEADLINE_S);
    *raw = (raw_t){.abi = &pair->net->abi};
    uint8_t handle[NCCL_NET_HANDLE_MAXSIZE];
    memcpy(handle, tpv_receiver_handle(pair->receiver, 0), sizeof handle);
    while (!raw->comm) {
        assert_int_equal(raw->abi->connect(raw->abi, pair->net->ctx, pair->net->device, handle, &raw->comm),
                         ncclSuccess);
        assert_int_equal(step(pair, deadline), TPV_OK);
    }
    assert_int_equal(
        raw->abi->regMr(raw->abi, raw->comm, raw->block, sizeof raw->block, NCCL_PTR_HOST, &raw->registration),
        ncclSuccess);
}

/* Send the message, or as much of it as the receiver still takes; what the receiver says. */
static tpv_status_t raw_send(pair_t *pair, raw_t *raw, const void *message, size_t size) {
    int64_t deadline = tpv_deadline_in(DEADLINE_S);
    void *request = NULL;
    int done = 0, ignored;
    memcpy(raw->block, message, size);
    while (!done) {
        if (!request &&
            raw->abi->isend(raw->abi, raw->comm, raw->block, size, 0, raw->registration, &request) != ncclSuccess)
            return TPV_OK;
        if (request && raw->abi->test(request, &done, &ignored) != ncclSuccess) return TPV_OK;
        tpv_status_t status = step(pair, deadline);
        if (status != TPV_OK) return status;
    }
    return TPV_OK;
}

static void raw_close(raw_t *raw) {
    if (!raw->comm) return;
    raw->abi->deregMr(raw->comm, raw->registration);
    raw->abi->closeSend(raw->comm);
    raw->comm = NULL;
}

static tpv_greeting_t greeting_of(const tpv_stream_t *stream) {
    tpv_greeting_t greeting = {.magic = TPV_GREETING_MAGIC,
                               .version = TPV_WIRE_VERSION,
                               .comms = (uint16_t)stream->comms,
                               .chunk_bytes = stream->chunk_bytes,
                               .bytes = stream->bytes};
    memcpy(greeting.id, stream->id, TPV_ID_BYTES);
    return greeting;
}

/* Until the receiver has closed the stranger's comm, which shows in what is sent on it. */
static void wait_dropped(pair_t *pair, raw_t *raw) {
    int64_t deadline = tpv_deadline_in(DEADLINE_S);
    void *request = NULL;
    for (int done = 0, ignored;;) {
        if (!request && raw->abi->isend(raw->abi, raw->comm, raw->block, 1, 0, raw->registration, &request)) break;
        if (request && raw->abi->test(request, &done, &ignored) != ncclSuccess) break;
        if (done) request = NULL;
        assert_int_equal(step(pair, deadline), TPV_OK);
    }
}

/* Every byte of the greeting counts but for the reserved ones, and its length. */
static void a_stranger_is_dropped_and_the_source_still_gets_through(void **state) {
    (void)state;
    pair_t pair;
    pair_open(&pair, plugins[1], 300000, 65536, 1); /* a plugin whose handles prove nothing */
    for (size_t i = 0; i <= sizeof(tpv_greeting_t) + 1; i++) {
        tpv_greeting_t greeting = greeting_of(&pair.stream);
        uint8_t message[sizeof greeting + 1];
        size_t size = sizeof greeting;
        if (i >= offsetof(tpv_greeting_t, reserved) && i < offsetof(tpv_greeting_t, chunk_bytes)) continue;
        if (i < size) ((uint8_t *)&greeting)[i] ^= 1;
        if (i == sizeof greeting) size--;
        if (i == sizeof greeting + 1) size = 1;
        memcpy(message, &greeting, sizeof greeting);
        raw_t stranger;
        raw_connect(&pair, &stranger);
        assert_int_equal(raw_send(&pair, &stranger, message, size), TPV_OK);
        wait_dropped(&pair, &stranger);
        raw_close(&stranger);
    }
    assert_int_equal(tpv_receiver_counts(pair.receiver).bytes, 0);
    for (uint64_t i = 0; i < pair.stream.bytes; i++)
        assert_int_equal(pair.destination[i], 0);
    pair.sender = sender_open(&pair, &pair.stream, 4);
    assert_int_equal(pair_run(&pair, NULL), TPV_OK);
    assert_memory_equal(pair.source, pair.destination, pair.stream.bytes);
    pair_close(&pair);
}

/* A lane's comm number counts where there are several: one source connected to another's listener. */
static void lanes_are_not_taken_for_one_another(void **state) {
    (void)state;
    pair_t pair;
    pair_open(&pair, plugins[1], 300000, 65536, 2);
    raw_t stranger;
    raw_connect(&pair, &stranger);
    tpv_greeting_t greeting = greeting_of(&pair.stream);
    greeting.comm = 1;
    assert_int_equal(raw_send(&pair, &stranger, &greeting, sizeof greeting), TPV_OK);
    wait_dropped(&pair, &stranger);
    raw_close(&stranger);
    pair.sender = sender_open(&pair, &pair.stream, 4);
    assert_int_equal(pair_run(&pair, NULL), TPV_OK);
    assert_memory_equal(pair.source, pair.destination, pair.stream.bytes);
    pair_close(&pair);
}

enum { CHUNK = 4096, TAIL = 100 };

typedef struct {
    const char *what;
    uint64_t chunk, bytes, digest; /* changes (exclusive or) of the first trailer */
    uint32_t magic;
    uint16_t version, tells;
    size_t data, trailer; /* bytes that are sent; 0: all */
    tpv_status_t expected;
} lie_t;

/* Each field of a trailer by itself. All but the field in question is right, the digest included. */
static void every_field_of_a_trailer_counts(void **state) {
    (void)state;
    static const lie_t lies[] = {
        {"nothing", .expected = TPV_OK},
        {"the number of the next chunk", .chunk = 1, .expected = TPV_ERR_PROTOCOL},
        {"a number 2^32 away", .chunk = UINT64_C(1) << 32, .expected = TPV_ERR_PROTOCOL},
        {"another length", .bytes = 1, .expected = TPV_ERR_PROTOCOL},
        {"a length 2^32 away", .bytes = UINT64_C(1) << 32, .expected = TPV_ERR_PROTOCOL},
        {"fewer bytes", .data = CHUNK - 1, .expected = TPV_ERR_PROTOCOL},
        {"the length of the last chunk", .bytes = CHUNK ^ TAIL, .data = TAIL, .expected = TPV_ERR_PROTOCOL},
        {"the lowest bit of the digest", .digest = 1, .expected = TPV_ERR_DIGEST},
        {"the highest bit of the digest", .digest = UINT64_C(1) << 63, .expected = TPV_ERR_DIGEST},
        {"magic", .magic = 1, .expected = TPV_ERR_PROTOCOL},
        {"version", .version = 1, .expected = TPV_ERR_PROTOCOL},
        {"a trailer cut short", .trailer = TPV_TRAILER_BYTES - 1, .expected = TPV_ERR_PROTOCOL},
        {"a failure", .tells = TPV_ERR_NO_MEMORY, .expected = TPV_ERR_NO_MEMORY},
        {"a failure that is none", .tells = TPV_STATUS_COUNT, .expected = TPV_ERR_PEER},
        {"a failure that is none by far", .tells = UINT16_MAX, .expected = TPV_ERR_PEER},
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        const lie_t *lie = &lies[i];
        pair_t pair;
        raw_t raw;
        pair_open(&pair, plugins[i % 2], CHUNK + TAIL, CHUNK, 1);
        raw_connect(&pair, &raw);
        tpv_greeting_t greeting = greeting_of(&pair.stream);
        assert_int_equal(raw_send(&pair, &raw, &greeting, sizeof greeting), TPV_OK);
        tpv_status_t status = raw_send(&pair, &raw, pair.source, lie->data ? lie->data : CHUNK);
        tpv_trailer_t trailer = {.magic = TPV_TRAILER_MAGIC ^ lie->magic,
                                 .version = TPV_WIRE_VERSION ^ lie->version,
                                 .status = lie->tells,
                                 .chunk = lie->chunk,
                                 .bytes = CHUNK ^ lie->bytes,
                                 .digest = XXH3_64bits(pair.source, CHUNK) ^ lie->digest};
        if (status == TPV_OK) status = raw_send(&pair, &raw, &trailer, lie->trailer ? lie->trailer : TPV_TRAILER_BYTES);
        for (int64_t deadline = tpv_deadline_in(DEADLINE_S);
             status == TPV_OK && tpv_receiver_counts(pair.receiver).chunks == 0;)
            status = step(&pair, deadline);
        if (status != lie->expected) fail_msg("%s: %s", lie->what, tpv_status_name(status));
        assert_int_equal(tpv_receiver_counts(pair.receiver).bytes, status == TPV_OK ? CHUNK : 0);
        raw_close(&raw);
        pair_close(&pair);
    }
}

static void a_source_that_leaves_is_noticed(void **state) {
    (void)state;
    for (size_t p = 0; p < sizeof plugins / sizeof *plugins; p++) {
        pair_t pair;
        pair_open(&pair, plugins[p], 64 << 20, 1 << 20, 2);
        pair.sender = sender_open(&pair, &pair.stream, 4);
        int64_t deadline = tpv_deadline_in(DEADLINE_S);
        bool moved = false, done = false;
        while (tpv_receiver_counts(pair.receiver).chunks < 3 && !tpv_deadline_passed(deadline)) {
            assert_int_equal(tpv_sender_advance(pair.sender, &moved, &done), TPV_OK);
            assert_int_equal(tpv_receiver_advance(pair.receiver, &moved, &done), TPV_OK);
        }
        tpv_sender_close(pair.sender);
        pair.sender = NULL;
        tpv_status_t status = TPV_OK;
        while (status == TPV_OK && !done && !tpv_deadline_passed(deadline))
            status = tpv_receiver_advance(pair.receiver, &moved, &done);
        assert_int_equal(status, TPV_ERR_PEER);
        pair_close(&pair);
    }
}

/*
 * A view of 4.25 GiB. Its first 4 GiB are zeros: at the source no page of them exists, at the destination they all lie
 * in the same 64 MiB. What lies behind is memory of its own, with a mark in every chunk.
 */
static void bytes_behind_4_gib(void **state) {
    (void)state;
    enum { BIG_CHUNK = 64 << 20 };
    const uint64_t low = UINT64_C(4) << 30, bytes = low + 4 * (uint64_t)BIG_CHUNK - 1000;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    pair_t pair;
    pair_prepare(&pair, plugins[0], 1, BIG_CHUNK, 2);
    free(pair.source);
    free(pair.destination);
    pair.stream.bytes = bytes;
    pair.source = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    pair.destination = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    int zeros = memfd_create("zeros", MFD_CLOEXEC);
    if (pair.source == MAP_FAILED || pair.destination == MAP_FAILED || zeros < 0 || ftruncate(zeros, BIG_CHUNK) != 0) {
        puts("skipped: this system gives no address space of 9 GiB");
        skip();
    }
    for (uint64_t at = 0; at < low; at += BIG_CHUNK)
        assert_ptr_not_equal(
            mmap(pair.destination + at, BIG_CHUNK, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, zeros, 0),
            MAP_FAILED);
    for (uint64_t at = low; at < bytes; at += BIG_CHUNK) {
        pair.source[at] = (uint8_t)(1 + at / BIG_CHUNK);
        pair.source[at + 54321] = (uint8_t)(101 + at / BIG_CHUNK);
    }
    pair.memory.data = pair.source;
    pair_receive(&pair);
    pair.sender = sender_open(&pair, &pair.stream, 4);
    if (pair_run(&pair, NULL) != TPV_OK) fail_msg("%s", tpv_error_message());
    tpv_stream_counts_t got = tpv_receiver_counts(pair.receiver), sent = tpv_sender_counts(pair.sender);
    assert_true(got.bytes == bytes && sent.bytes == bytes && got.wire == sent.wire && got.wire > bytes);
    assert_int_equal(got.chunks, 68);
    assert_memory_equal(pair.source + low, pair.destination + low, bytes - low);
    assert_memory_equal(pair.source, pair.destination, BIG_CHUNK);
    uint8_t *source = pair.source, *destination = pair.destination;
    pair.source = pair.destination = NULL;
    pair_close(&pair);
    munmap(source, bytes);
    munmap(destination, bytes);
    close(zeros);
}

static void plugins_that_cannot_be_used_are_named(void **state) {
    (void)state;
    tpv_net_t *net = NULL;
    assert_int_equal(tpv_net_open("/nowhere/libx.so", &net), TPV_ERR_NOT_FOUND);
    assert_non_null(strstr(tpv_error_message(), "/nowhere/libx.so"));
    assert_int_equal(tpv_net_open("none", &net), TPV_ERR_NOT_FOUND);
    assert_int_equal(tpv_net_open("libc.so.6", &net), TPV_ERR_UNSUPPORTED);
    assert_non_null(strstr(tpv_error_message(), "ncclNetPlugin_v6 to ncclNetPlugin_v12"));
}

/* Ranges share chunks, begin and end inside of them, and the source's chunks are shorter than the rank allows. */
static void only_wanted_chunks_are_sent(void **state) {
    (void)state;
    static const tpv_range_t ranges[] = {{5, 6}, {8, 4095}, {12288, 12289}, {20000, 20481}, {49152, 50001}};
    static const bool wanted[] = {true, false, false, true, true, true, false, false, false, false, false, false, true};
    for (uint32_t comms = 1; comms <= 7; comms += 3) {
        pair_t pair;
        pair_prepare(&pair, plugins[0], 50001, 16384, comms);
        pair.stream.ranges = ranges;
        pair.stream.range_count = sizeof ranges / sizeof *ranges;
        pair_receive(&pair);
        pair.stream.chunk_bytes = 4096;
        pair.sender = sender_open(&pair, &pair.stream, 4);
        assert_int_equal(pair_run(&pair, NULL), TPV_OK);
        assert_int_equal(pair.arrived, 5);
        for (uint64_t i = 0; i < 13; i++) {
            uint64_t length = tpv_stream_chunk_length(&pair.stream, i);
            static const uint8_t zeros[4096];
            assert_memory_equal(pair.destination + i * 4096, wanted[i] ? pair.source + i * 4096 : zeros, length);
        }
        assert_int_equal(tpv_sender_counts(pair.sender).bytes, 4 * 4096 + 50001 % 4096);
        pair_close(&pair);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_arrives),
        cmocka_unit_test(only_wanted_chunks_are_sent),
        cmocka_unit_test(the_source_chooses_the_length_of_chunks),
        cmocka_unit_test(every_abi_version_moves_data),
        cmocka_unit_test(sizes_that_an_old_version_cannot_tell_are_refused),
        cmocka_unit_test(a_wrong_digest_of_any_chunk_is_found),
        cmocka_unit_test(the_source_tells_why_it_cannot_go_on),
        cmocka_unit_test(a_stranger_is_dropped_and_the_source_still_gets_through),
        cmocka_unit_test(lanes_are_not_taken_for_one_another),
        cmocka_unit_test(every_field_of_a_trailer_counts),
        cmocka_unit_test(a_source_that_leaves_is_noticed),
        cmocka_unit_test(bytes_behind_4_gib),
        cmocka_unit_test(plugins_that_cannot_be_used_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

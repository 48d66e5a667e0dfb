#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "channel/registration.h"
#include "channel/selection.h"
#include "channel/wire.h"

/* A chunk that is expected, from its first irecv on. */
typedef struct {
    uint64_t chunk;
    void *data;                           /* where it lands; NULL: nowhere yet */
    void *data_request, *trailer_request; /* NULL once finished */
    bool data_posted, trailer_posted;
    int data_size, trailer_size;
} slot_t;

typedef enum { LISTENING, GREETING, STREAMING, FINISHED } lane_state_t;

typedef struct {
    lane_state_t state;
    void *listen, *comm;
    tpv_registration_t direct, ring, control_registration; /* with comm */
    void *greeting_request;
    uint64_t next; /* which of the selected chunks to post next */
    unsigned head, count;
    slot_t slots[TPV_STREAM_WINDOW];
    uint8_t handle[NCCL_NET_HANDLE_MAXSIZE];
    /* Registered together: what is not payload. */
    struct {
        tpv_greeting_t greeting;
        tpv_trailer_t trailers[TPV_STREAM_WINDOW];
    } control;
} lane_t;

struct tpv_receiver {
    const tpv_net_t *net;
    tpv_stream_t stream;
    tpv_selection_t selection;
    bool begun;    /* the length of chunks is known */
    bool reported; /* the source said why it cannot go on */
    tpv_landing_t landing;
    tpv_stream_counts_t counts;
    lane_t lanes[];
};

static void lane_close_comm(tpv_receiver_t *receiver, lane_t *lane) {
    if (!lane->comm) return;
    tpv_net_deregister(receiver->net, lane->comm, &lane->direct);
    tpv_net_deregister(receiver->net, lane->comm, &lane->ring);
    tpv_net_deregister(receiver->net, lane->comm, &lane->control_registration);
    receiver->net->abi.closeRecv(lane->comm);
    lane->comm = NULL;
    lane->greeting_request = NULL;
}

static void lane_close_listen(tpv_receiver_t *receiver, lane_t *lane) {
    if (lane->listen) receiver->net->abi.closeListen(lane->listen);
    lane->listen = NULL;
}

tpv_status_t tpv_receiver_open(const tpv_net_t *net, const tpv_stream_t *stream, const tpv_landing_t *landing,
                               tpv_receiver_t **receiver) {
    tpv_receiver_t *r = calloc(1, sizeof *r + stream->comms * sizeof r->lanes[0]);
    if (!r) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %u comms", stream->comms);
    r->net = net;
    r->stream = *stream;
    r->landing = *landing;
    for (uint32_t i = 0; i < stream->comms; i++) {
        lane_t *lane = &r->lanes[i];
        lane->next = i;
        tpv_status_t status = tpv_net_check(
            net, net->abi.listen(&net->abi, net->ctx, stream->device, lane->handle, &lane->listen), "listen");
        if (status != TPV_OK) {
            tpv_receiver_close(r);
            return status;
        }
    }
    *receiver = r;
    return TPV_OK;
}

void tpv_receiver_close(tpv_receiver_t *receiver) {
    if (!receiver) return;
    for (uint32_t i = 0; i < receiver->stream.comms; i++) {
        lane_close_comm(receiver, &receiver->lanes[i]);
        lane_close_listen(receiver, &receiver->lanes[i]);
    }
    tpv_selection_clear(&receiver->selection);
    free(receiver);
}

const void *tpv_receiver_handle(const tpv_receiver_t *receiver, uint32_t comm) {
    return receiver->lanes[comm].handle;
}

bool tpv_receiver_reported(const tpv_receiver_t *receiver) {
    return receiver->reported;
}

bool tpv_receiver_listens(const tpv_receiver_t *receiver) {
    for (uint32_t i = 0; i < receiver->stream.comms; i++)
        if (receiver->lanes[i].state == LISTENING) return true;
    return false;
}

tpv_stream_counts_t tpv_receiver_counts(const tpv_receiver_t *receiver) {
    return receiver->counts;
}

static tpv_status_t post(tpv_receiver_t *receiver, lane_t *lane, void *data, size_t bytes, void *registration,
                         void **request) {
    int tag = 0;
    *request = NULL; /* and not NCCL_NET_OPTIONAL_RECV_COMPLETION */
    return tpv_net_check(
        receiver->net,
        receiver->net->abi.irecv(&receiver->net->abi, lane->comm, 1, &data, &bytes, &tag, &registration, request),
        "irecv");
}

static tpv_status_t test(tpv_receiver_t *receiver, void **request, int *size, bool *moved) {
    int done = 0;
    TPV_TRY(tpv_net_check(receiver->net, receiver->net->abi.test(*request, &done, size), "receive"));
    if (!done) return TPV_OK;
    *request = NULL;
    *moved = true;
    receiver->counts.wire += (uint64_t)*size;
    return TPV_OK;
}

static tpv_status_t lane_accept(tpv_receiver_t *receiver, lane_t *lane, bool *moved) {
    const tpv_net_t *net = receiver->net;
    TPV_TRY(tpv_net_check(net, net->abi.accept(&net->abi, lane->listen, &lane->comm), "accept"));
    if (!lane->comm) return TPV_OK;
    *moved = true;
    TPV_TRY(tpv_net_register(net, lane->comm, &lane->control, sizeof lane->control, &lane->control_registration));
    lane->state = GREETING;
    return TPV_OK;
}

static bool greeting_matches(const tpv_receiver_t *receiver, const lane_t *lane, int size) {
    const tpv_greeting_t *greeting = &lane->control.greeting;
    const tpv_stream_t *stream = &receiver->stream;
    bool length = receiver->begun ? greeting->chunk_bytes == stream->chunk_bytes
                                  : greeting->chunk_bytes > 0 && greeting->chunk_bytes <= stream->chunk_bytes;
    return size == sizeof *greeting && greeting->magic == TPV_GREETING_MAGIC && greeting->version == TPV_WIRE_VERSION &&
           greeting->comm == lane - receiver->lanes && greeting->comms == stream->comms && length &&
           greeting->bytes == stream->bytes && memcmp(greeting->id, stream->id, TPV_ID_BYTES) == 0;
}

/* The first greeting tells how long the source's chunks are. */
static tpv_status_t begin(tpv_receiver_t *receiver, uint32_t chunk_bytes) {
    receiver->stream.chunk_bytes = chunk_bytes;
    TPV_TRY(tpv_selection_make(&receiver->stream, &receiver->selection));
    receiver->begun = true;
    return receiver->landing.begin(receiver->landing.user, chunk_bytes);
}

static tpv_status_t register_region(tpv_receiver_t *receiver, lane_t *lane, tpv_region_t region,
                                    tpv_registration_t *registration) {
    return tpv_net_register(receiver->net, lane->comm, region.base, region.bytes, registration);
}

/* Whoever connects must show the fetch's id first; anybody else is dropped and the rightful source awaited further. */
static tpv_status_t lane_greet(tpv_receiver_t *receiver, lane_t *lane, bool *moved) {
    tpv_status_t status = TPV_OK;
    int size = 0;
    if (!lane->greeting_request)
        status = post(receiver, lane, &lane->control.greeting, sizeof lane->control.greeting,
                      lane->control_registration.handle, &lane->greeting_request);
    if (status == TPV_OK && lane->greeting_request) {
        status = test(receiver, &lane->greeting_request, &size, moved);
        if (status == TPV_OK && lane->greeting_request) return TPV_OK;
    }
    if (status == TPV_OK && size == 0) return TPV_OK; /* not posted yet */
    if (status != TPV_OK || !greeting_matches(receiver, lane, size)) {
        TPV_WARN("comm %d: dropped a peer that does not belong to this fetch%s%s", (int)(lane - receiver->lanes),
                 status != TPV_OK ? ": " : "", status != TPV_OK ? tpv_error_message() : "");
        lane_close_comm(receiver, lane);
        lane->state = LISTENING;
        *moved = true;
        return TPV_OK;
    }
    lane_close_listen(receiver, lane);
    if (!receiver->begun) TPV_TRY(begin(receiver, lane->control.greeting.chunk_bytes));
    tpv_region_t direct = receiver->landing.direct;
    if (direct.bytes > 0) {
        /* Plugins that pin memory cannot take every kind of it. */
        if (register_region(receiver, lane, direct, &lane->direct) != TPV_OK)
            TPV_INFO("chunks go through the ring: %s", tpv_error_message());
    }
    lane->state = STREAMING;
    return TPV_OK;
}

static bool is_in(tpv_region_t region, const void *data) {
    return (size_t)((const uint8_t *)data - (const uint8_t *)region.base) < region.bytes;
}

static tpv_status_t post_data(tpv_receiver_t *receiver, lane_t *lane, slot_t *slot) {
    const tpv_landing_t *landing = &receiver->landing;
    if (!slot->data) slot->data = landing->place(landing->user, slot->chunk, lane->direct.held);
    if (!slot->data) return TPV_OK;
    bool direct = lane->direct.held && is_in(landing->direct, slot->data);
    if (!direct && !lane->ring.held)
        TPV_TRY(register_region(receiver, lane, landing->ring(landing->user), &lane->ring));
    return post(receiver, lane, slot->data, tpv_stream_chunk_length(&receiver->stream, slot->chunk),
                direct ? lane->direct.handle : lane->ring.handle, &slot->data_request);
}

/* Keep the window full of posted receives. */
static tpv_status_t lane_post(tpv_receiver_t *receiver, lane_t *lane, bool *moved) {
    for (;;) {
        unsigned last = (lane->head + lane->count - 1) % TPV_STREAM_WINDOW;
        bool open = lane->count > 0 && !lane->slots[last].trailer_posted;
        if (!open) {
            if (lane->count == TPV_STREAM_WINDOW || lane->next >= receiver->selection.chunks) return TPV_OK;
            last = (lane->head + lane->count++) % TPV_STREAM_WINDOW;
            lane->slots[last] = (slot_t){.chunk = tpv_selection_chunk(&receiver->selection, lane->next)};
            lane->next += receiver->stream.comms;
        }
        slot_t *slot = &lane->slots[last];
        if (!slot->data_posted) {
            TPV_TRY(post_data(receiver, lane, slot));
            if (!slot->data_request) return TPV_OK;
            slot->data_posted = *moved = true;
        }
        TPV_TRY(post(receiver, lane, &lane->control.trailers[last], sizeof(tpv_trailer_t),
                     lane->control_registration.handle, &slot->trailer_request));
        if (!slot->trailer_request) return TPV_OK;
        slot->trailer_posted = *moved = true;
    }
}

static tpv_status_t check_chunk(tpv_receiver_t *receiver, const slot_t *slot, const tpv_trailer_t *trailer) {
    unsigned long long chunk = slot->chunk;
    if (slot->trailer_size < TPV_TRAILER_BYTES || trailer->magic != TPV_TRAILER_MAGIC ||
        trailer->version != TPV_WIRE_VERSION)
        return tpv_error_set(TPV_ERR_PROTOCOL, "chunk %llu: its trailer is malformed (%d bytes)", chunk,
                             slot->trailer_size);
    if (trailer->status != TPV_OK) {
        receiver->reported = true;
        int length = slot->trailer_size - TPV_TRAILER_BYTES;
        tpv_status_t status = trailer->status < TPV_STATUS_COUNT ? (tpv_status_t)trailer->status : TPV_ERR_PEER;
        return tpv_error_set(status, "the source reports at chunk %llu: %.*s", chunk, length, trailer->message);
    }
    uint64_t expected = tpv_stream_chunk_length(&receiver->stream, slot->chunk);
    if (trailer->chunk != slot->chunk || trailer->bytes != expected || (uint64_t)slot->data_size != expected)
        return tpv_error_set(TPV_ERR_PROTOCOL,
                             "chunk %llu: got %d bytes with a trailer for chunk %llu of %llu bytes, expected %llu",
                             chunk, slot->data_size, (unsigned long long)trailer->chunk,
                             (unsigned long long)trailer->bytes, (unsigned long long)expected);
    return TPV_OK;
}

/* Finish chunks in their order, which is the order of the comm's messages. */
static tpv_status_t lane_collect(tpv_receiver_t *receiver, lane_t *lane, bool *moved) {
    while (lane->count > 0) {
        slot_t *slot = &lane->slots[lane->head];
        if (slot->data_request) TPV_TRY(test(receiver, &slot->data_request, &slot->data_size, moved));
        if (!slot->data_posted || slot->data_request || !slot->trailer_posted) return TPV_OK;
        TPV_TRY(test(receiver, &slot->trailer_request, &slot->trailer_size, moved));
        if (slot->trailer_request) return TPV_OK;
        TPV_TRY(check_chunk(receiver, slot, &lane->control.trailers[lane->head]));
        TPV_TRY(receiver->landing.arrived(receiver->landing.user, slot->chunk, slot->data,
                                          lane->control.trailers[lane->head].digest));
        receiver->counts.chunks++;
        receiver->counts.bytes += (uint64_t)slot->data_size;
        lane->head = (lane->head + 1) % TPV_STREAM_WINDOW;
        lane->count--;
        /* Room for the next receive at once: the sender must never wait. */
        TPV_TRY(lane_post(receiver, lane, moved));
    }
    return TPV_OK;
}

static tpv_status_t lane_advance(tpv_receiver_t *receiver, lane_t *lane, bool *moved) {
    switch (lane->state) {
    case LISTENING:
        return lane_accept(receiver, lane, moved);
    case GREETING:
        return lane_greet(receiver, lane, moved);
    case STREAMING:
        TPV_TRY(lane_post(receiver, lane, moved));
        TPV_TRY(lane_collect(receiver, lane, moved));
        if (lane->count == 0 && lane->next >= receiver->selection.chunks) lane->state = FINISHED;
        return TPV_OK;
    case FINISHED:
        return TPV_OK;
    }
    return TPV_OK;
}

tpv_status_t tpv_receiver_advance(tpv_receiver_t *receiver, bool *moved, bool *done) {
    *moved = false;
    *done = true;
    for (uint32_t i = 0; i < receiver->stream.comms; i++) {
        lane_t *lane = &receiver->lanes[i];
        tpv_status_t status = lane_advance(receiver, lane, moved);
        if (status != TPV_OK) return receiver->stream.comms > 1 ? tpv_error_prefix(status, "comm %u", i) : status;
        if (lane->state != FINISHED) *done = false;
    }
    return TPV_OK;
}

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "channel/registration.h"
#include "channel/selection.h"
#include "channel/wire.h"

typedef enum { ASKED, READY, DATA_POSTED, POSTED } slot_state_t;

typedef struct {
    slot_state_t state;
    uint64_t chunk;
    const void *data;
    uint64_t bytes, digest;
    tpv_status_t status; /* of get */
    void *data_request, *trailer_request;
} slot_t;

typedef enum { CONNECTING, GREETING, STREAMING, FINISHED } lane_state_t;

typedef struct {
    lane_state_t state;
    void *comm;
    tpv_registration_t *registrations; /* one for each region */
    tpv_registration_t control_registration;
    bool last_asked;
    bool greeted; /* the plugin has sent the greeting: ours does once the receiver has accepted the comm */
    void *greeting_request;
    uint64_t next;                /* which of the selected chunks to ask for next */
    unsigned head, posted, count; /* slots [head, head + posted) are with the plugin, [.., head + count) asked for */
    slot_t slots[TPV_STREAM_WINDOW];
    uint8_t handle[NCCL_NET_HANDLE_MAXSIZE];
    struct {
        tpv_greeting_t greeting;
        tpv_trailer_t trailers[TPV_STREAM_WINDOW];
    } control;
} lane_t;

struct tpv_sender {
    const tpv_net_t *net;
    tpv_stream_t stream;
    tpv_selection_t selection;
    tpv_chunks_t chunks;
    const tpv_region_t *regions; /* the caller's */
    size_t region_count;
    tpv_stream_counts_t counts;
    tpv_status_t failure; /* of tpv_chunks_t.get, reported once the receiver has been told */
    char failure_message[TPV_ERROR_MAX];
    lane_t lanes[];
};

tpv_status_t tpv_sender_open(const tpv_net_t *net, const tpv_stream_t *stream, const void *handles,
                             const tpv_region_t *regions, size_t region_count, const tpv_chunks_t *chunks,
                             tpv_sender_t **sender) {
    tpv_sender_t *s = calloc(1, sizeof *s + stream->comms * sizeof s->lanes[0]);
    if (!s) goto fail;
    s->net = net;
    s->stream = *stream;
    s->chunks = *chunks;
    s->region_count = region_count;
    s->regions = regions;
    if (tpv_selection_make(stream, &s->selection) != TPV_OK) goto fail;
    for (uint32_t i = 0; i < stream->comms; i++) {
        lane_t *lane = &s->lanes[i];
        lane->next = i;
        memcpy(lane->handle, (const uint8_t *)handles + (size_t)i * sizeof lane->handle, sizeof lane->handle);
        lane->registrations = calloc(region_count + 1, sizeof *lane->registrations);
        if (!lane->registrations) goto fail;
    }
    *sender = s;
    return TPV_OK;

fail:
    tpv_sender_close(s);
    return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %u comms", stream->comms);
}

void tpv_sender_close(tpv_sender_t *sender) {
    if (!sender) return;
    for (uint32_t i = 0; i < sender->stream.comms; i++) {
        lane_t *lane = &sender->lanes[i];
        if (lane->comm) {
            for (size_t k = 0; k < sender->region_count; k++)
                tpv_net_deregister(sender->net, lane->comm, &lane->registrations[k]);
            tpv_net_deregister(sender->net, lane->comm, &lane->control_registration);
            sender->net->abi.closeSend(lane->comm);
        }
        free(lane->registrations);
    }
    tpv_selection_clear(&sender->selection);
    free(sender);
}

tpv_stream_counts_t tpv_sender_counts(const tpv_sender_t *sender) {
    return sender->counts;
}

bool tpv_sender_connected(const tpv_sender_t *sender) {
    for (uint32_t i = 0; i < sender->stream.comms; i++)
        if (!sender->lanes[i].greeted) return false;
    return true;
}

static tpv_status_t post(tpv_sender_t *sender, lane_t *lane, const void *data, size_t bytes, void *registration,
                         void **request) {
    /* The ABI has no const; a plugin only reads what is sent. */
    void *plain = (void *)(uintptr_t)data;
    *request = NULL;
    return tpv_net_check(sender->net,
                         sender->net->abi.isend(&sender->net->abi, lane->comm, plain, bytes, 0, registration, request),
                         "isend");
}

static tpv_status_t test(tpv_sender_t *sender, void **request, uint64_t bytes, bool *moved) {
    int done = 0, size = 0;
    TPV_TRY(tpv_net_check(sender->net, sender->net->abi.test(*request, &done, &size), "send"));
    if (!done) return TPV_OK;
    *request = NULL;
    *moved = true;
    sender->counts.wire += bytes;
    return TPV_OK;
}

static tpv_status_t lane_connect(tpv_sender_t *sender, lane_t *lane, bool *moved) {
    const tpv_net_t *net = sender->net;
    TPV_TRY(tpv_net_check(net, net->abi.connect(&net->abi, net->ctx, sender->stream.device, lane->handle, &lane->comm),
                          "connect"));
    if (!lane->comm) return TPV_OK;
    *moved = true;
    TPV_TRY(tpv_net_register(net, lane->comm, &lane->control, sizeof lane->control, &lane->control_registration));
    lane->control.greeting = (tpv_greeting_t){.magic = TPV_GREETING_MAGIC,
                                              .version = TPV_WIRE_VERSION,
                                              .comm = (uint16_t)(lane - sender->lanes),
                                              .comms = (uint16_t)sender->stream.comms,
                                              .chunk_bytes = sender->stream.chunk_bytes,
                                              .bytes = sender->stream.bytes};
    memcpy(lane->control.greeting.id, sender->stream.id, TPV_ID_BYTES);
    lane->state = GREETING;
    return TPV_OK;
}

static tpv_status_t lane_greet(tpv_sender_t *sender, lane_t *lane, bool *moved) {
    TPV_TRY(post(sender, lane, &lane->control.greeting, sizeof lane->control.greeting,
                 lane->control_registration.handle, &lane->greeting_request));
    if (!lane->greeting_request) return TPV_OK;
    *moved = true;
    lane->state = STREAMING;
    return TPV_OK;
}

/* Slots go round within the window, so no more staging places than that are ever used. */
static slot_t *lane_slot(const tpv_sender_t *sender, lane_t *lane, unsigned index) {
    return &lane->slots[(lane->head + index) % sender->chunks.window];
}

static void slot_fail(tpv_sender_t *sender, slot_t *slot, tpv_status_t status) {
    slot->status = status;
    slot->state = READY;
    slot->data = "";
    slot->bytes = 0;
    if (sender->failure != TPV_OK) return;
    sender->failure = status;
    memcpy(sender->failure_message, tpv_error_message(), strlen(tpv_error_message()) + 1);
}

/* Ask ahead for as many chunks as the window has, so that they are prepared while earlier ones are on the wire. */
static void lane_ask(tpv_sender_t *sender, lane_t *lane, bool *moved) {
    while (lane->count < sender->chunks.window && lane->next < sender->selection.chunks && !lane->last_asked) {
        *lane_slot(sender, lane, lane->count++) =
            (slot_t){.chunk = tpv_selection_chunk(&sender->selection, lane->next)};
        lane->next += sender->stream.comms;
    }
    uint32_t first_slot = (uint32_t)(lane - sender->lanes) * TPV_STREAM_WINDOW;
    for (unsigned i = lane->posted; i < lane->count; i++) {
        slot_t *slot = lane_slot(sender, lane, i);
        if (slot->state != ASKED) continue;
        slot->bytes = tpv_stream_chunk_length(&sender->stream, slot->chunk);
        tpv_status_t status = sender->chunks.get(sender->chunks.user, first_slot + (uint32_t)(slot - lane->slots),
                                                 slot->chunk, &slot->data, &slot->digest);
        if (status != TPV_OK) {
            slot_fail(sender, slot, status);
            lane->last_asked = *moved = true;
            lane->count = i + 1; /* what was asked for behind it is released at the end */
            return;
        }
        if (!slot->data) continue;
        slot->state = READY;
        *moved = true;
    }
}

/* Which region has the chunk; region_count for an empty one. */
static size_t region_of(const tpv_sender_t *sender, const slot_t *slot) {
    size_t k = slot->bytes > 0 ? 0 : sender->region_count;
    for (; k < sender->region_count; k++) {
        size_t offset = (size_t)((const uint8_t *)slot->data - (const uint8_t *)sender->regions[k].base);
        if (offset <= sender->regions[k].bytes && slot->bytes <= sender->regions[k].bytes - offset) break;
    }
    return k;
}

/* Post the slot's chunk, if it is not asked for again: its memory may be none that the plugin takes. */
static tpv_status_t post_chunk(tpv_sender_t *sender, lane_t *lane, slot_t *slot) {
    size_t region = region_of(sender, slot);
    tpv_registration_t *registration =
        region < sender->region_count ? &lane->registrations[region] : &lane->control_registration;
    if (!registration->held) {
        const tpv_region_t *memory = &sender->regions[region];
        if (tpv_net_register(sender->net, lane->comm, memory->base, memory->bytes, registration) != TPV_OK) {
            uint32_t index = (uint32_t)(lane - sender->lanes) * TPV_STREAM_WINDOW + (uint32_t)(slot - lane->slots);
            TPV_TRY(sender->chunks.refused(sender->chunks.user, index, region));
            slot->state = ASKED;
            return TPV_OK;
        }
    }
    return post(sender, lane, slot->data, slot->bytes, registration->handle, &slot->data_request);
}

static size_t fill_trailer(const tpv_sender_t *sender, const slot_t *slot, tpv_trailer_t *trailer) {
    *trailer = (tpv_trailer_t){.magic = TPV_TRAILER_MAGIC,
                               .version = TPV_WIRE_VERSION,
                               .status = (uint16_t)slot->status,
                               .chunk = slot->chunk,
                               .bytes = slot->bytes,
                               .digest = slot->digest};
    if (slot->status == TPV_OK) return TPV_TRAILER_BYTES;
    size_t length = strnlen(sender->failure_message, sizeof trailer->message);
    memcpy(trailer->message, sender->failure_message, length);
    return TPV_TRAILER_BYTES + length;
}

static tpv_status_t lane_post(tpv_sender_t *sender, lane_t *lane, bool *moved) {
    while (lane->posted < lane->count) {
        slot_t *slot = lane_slot(sender, lane, lane->posted);
        tpv_trailer_t *trailer = &lane->control.trailers[slot - lane->slots];
        if (slot->state == ASKED) return TPV_OK;
        if (slot->state == READY) {
            TPV_TRY(post_chunk(sender, lane, slot));
            if (!slot->data_request) return TPV_OK;
            slot->state = DATA_POSTED;
            *moved = true;
        }
        size_t bytes = fill_trailer(sender, slot, trailer);
        TPV_TRY(post(sender, lane, trailer, bytes, lane->control_registration.handle, &slot->trailer_request));
        if (!slot->trailer_request) return TPV_OK;
        slot->state = POSTED;
        lane->posted++;
        *moved = true;
    }
    return TPV_OK;
}

static tpv_status_t lane_collect(tpv_sender_t *sender, lane_t *lane, bool *moved) {
    if (lane->greeting_request) {
        TPV_TRY(test(sender, &lane->greeting_request, sizeof lane->control.greeting, moved));
        if (lane->greeting_request) return TPV_OK;
        lane->greeted = true;
    }
    uint32_t first_slot = (uint32_t)(lane - sender->lanes) * TPV_STREAM_WINDOW;
    while (lane->posted > 0) {
        slot_t *slot = lane_slot(sender, lane, 0);
        if (slot->data_request) TPV_TRY(test(sender, &slot->data_request, slot->bytes, moved));
        if (slot->data_request) return TPV_OK;
        TPV_TRY(test(sender, &slot->trailer_request, TPV_TRAILER_BYTES, moved));
        if (slot->trailer_request) return TPV_OK;
        if (slot->status == TPV_OK) {
            sender->chunks.release(sender->chunks.user, first_slot + (uint32_t)(slot - lane->slots));
            sender->counts.chunks++;
            sender->counts.bytes += slot->bytes;
        }
        lane->head = (lane->head + 1) % sender->chunks.window;
        lane->posted--;
        lane->count--;
    }
    return TPV_OK;
}

static tpv_status_t lane_advance(tpv_sender_t *sender, lane_t *lane, bool *moved) {
    switch (lane->state) {
    case CONNECTING:
        return lane_connect(sender, lane, moved);
    case GREETING:
        return lane_greet(sender, lane, moved);
    case STREAMING:
        lane_ask(sender, lane, moved);
        TPV_TRY(lane_post(sender, lane, moved));
        TPV_TRY(lane_collect(sender, lane, moved));
        if (lane->count == 0 && !lane->greeting_request && (lane->last_asked || lane->next >= sender->selection.chunks))
            lane->state = FINISHED;
        return TPV_OK;
    case FINISHED:
        return TPV_OK;
    }
    return TPV_OK;
}

tpv_status_t tpv_sender_advance(tpv_sender_t *sender, bool *moved, bool *done) {
    *moved = false;
    *done = true;
    for (uint32_t i = 0; i < sender->stream.comms; i++) {
        lane_t *lane = &sender->lanes[i];
        tpv_status_t status = lane_advance(sender, lane, moved);
        if (status != TPV_OK) return sender->stream.comms > 1 ? tpv_error_prefix(status, "comm %u", i) : status;
        /* Once one comm has told the receiver of a failure, the others need not go on. */
        if (lane->state == FINISHED && lane->last_asked)
            return tpv_error_set(sender->failure, "%s", sender->failure_message);
        if (lane->state != FINISHED) *done = false;
    }
    return TPV_OK;
}

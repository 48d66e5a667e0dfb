/*
 * One fetch's data: `comms` send comms at the source, as many receive comms at the rank, framed as wire.h says.
 *
 * Both ends are duty cycles. tpv_receiver_advance and tpv_sender_advance never block: each does what can be done now
 * and tells whether anything moved; the caller sleeps with idle.h when nothing did, and owns every deadline. A receiver
 * or sender belongs to one thread at a time.
 */
#ifndef CHANNEL_STREAM_H
#define CHANNEL_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/id.h"
#include "base/ranges.h"
#include "channel/net.h"
#include "tpview/status.h"

#define TPV_STREAM_MAX_COMMS 64
#define TPV_STREAM_MAX_RANGES 16384
#define TPV_STREAM_WINDOW 8 /* chunks in flight for each comm: two requests each, of NCCL_NET_MAX_REQUESTS */

typedef struct tpv_stream {
    uint8_t id[TPV_ID_BYTES];
    int device;           /* of the net plugin, for all comms */
    uint32_t comms;       /* 1 to TPV_STREAM_MAX_COMMS */
    uint32_t chunk_bytes; /* above 0 */
    uint64_t bytes;       /* of the dense form */
    /* Dense bytes that are wanted, whose chunks alone are sent: as in tpv_ranges_t, inside of the dense form, at least
     * one and at most TPV_STREAM_MAX_RANGES. NULL: all. They live as long as the stream is used. */
    const tpv_range_t *ranges;
    uint32_t range_count;
} tpv_stream_t;

/* How many chunks the dense form has, and how long chunk `index` is. */
uint64_t tpv_stream_chunks(const tpv_stream_t *stream);
uint64_t tpv_stream_chunk_length(const tpv_stream_t *stream, uint64_t index);

typedef struct tpv_stream_counts {
    uint64_t bytes;  /* of whole chunks */
    uint64_t chunks; /* likewise */
    uint64_t wire;   /* bytes of all finished messages */
} tpv_stream_counts_t;

/* Memory of this process that is registered with the plugin when the first message of a comm lies in it. */
typedef struct tpv_region {
    const void *base;
    size_t bytes;
} tpv_region_t;

/* ---- receiver ---- */

/*
 * Where the receiver's chunks land. Called on the receiver's thread only; no call may block. `arrived` is told what the
 * source sent as the chunk's digest; whether it is right is for others to find out.
 */
typedef struct tpv_landing {
    void *user;
    /* Once, before any other call: the source's chunks have this length, at most what the stream said. */
    tpv_status_t (*begin)(void *user, uint32_t chunk_bytes);
    /* Where chunk `index` goes: inside of `direct` if the plugin has taken that memory, else of the ring. NULL: no
     * place is free now, ask again. What it returned is written to until `arrived` or the receiver's close. */
    void *(*place)(void *user, uint64_t index, bool direct);
    /* The chunk is there. An error ends the stream. */
    tpv_status_t (*arrived)(void *user, uint64_t index, void *data, uint64_t digest);
    /* All of the memory that is not `direct`; known once the first place there was given. */
    tpv_region_t (*ring)(void *user);
    /* Destination memory for all chunks, or none. When a plugin does not take it, the ring is used. */
    tpv_region_t direct;
} tpv_landing_t;

typedef struct tpv_receiver tpv_receiver_t;

/* Listen with every comm. stream->chunk_bytes is the longest chunk that is accepted. Nothing is written before a comm
 * has shown stream->id. The memory of `landing` stays valid until close. TPV_ERR_NET, TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_receiver_open(const tpv_net_t *net, const tpv_stream_t *stream, const tpv_landing_t *landing,
                               tpv_receiver_t **receiver);
/* NCCL_NET_HANDLE_MAXSIZE bytes with which the source connects comm `comm`. */
const void *tpv_receiver_handle(const tpv_receiver_t *receiver, uint32_t comm);
/* *done when every wanted chunk has arrived. TPV_ERR_PEER, TPV_ERR_NET, TPV_ERR_PROTOCOL, errors of the landing, and
 * what the source reported; after an error only reported, counts and close are allowed. */
tpv_status_t tpv_receiver_advance(tpv_receiver_t *receiver, bool *moved, bool *done);
/* Whether the error of tpv_receiver_advance is what the source reported. */
bool tpv_receiver_reported(const tpv_receiver_t *receiver);
/* Whether the plugin has yet to give a comm to every listener. */
bool tpv_receiver_listens(const tpv_receiver_t *receiver);
tpv_stream_counts_t tpv_receiver_counts(const tpv_receiver_t *receiver);
/* Also with transfers in flight: nothing writes to the landing's memory afterwards. NULL is allowed. */
void tpv_receiver_close(tpv_receiver_t *receiver);

/* ---- sender ---- */

/* Where the sender's chunks come from. Called on the sender's thread only; neither call may block. */
typedef struct tpv_chunks {
    void *user;
    /* Ask for `chunk` in place `slot` (below comms * window). TPV_OK with *data NULL: being prepared, ask again.
     * TPV_OK with *data: it stays valid until release. Anything else ends the fetch; the message is sent along. */
    tpv_status_t (*get)(void *user, uint32_t slot, uint64_t chunk, const void **data, uint64_t *digest);
    /* The slot's chunk is sent. */
    void (*release)(void *user, uint32_t slot);
    /* The plugin does not take the memory of region `region`, where the slot's chunk lies (the message has its reason).
     * TPV_OK: the slot is released, its chunk is asked for again, and nothing is given in that region any more.
     * Anything else ends the fetch. */
    tpv_status_t (*refused)(void *user, uint32_t slot, size_t region);
    uint32_t window; /* chunks that may be asked for ahead on each comm: 1 to TPV_STREAM_WINDOW */
} tpv_chunks_t;

typedef struct tpv_sender tpv_sender_t;

/* Nothing is sent yet. `handles` are stream->comms handles of NCCL_NET_HANDLE_MAXSIZE bytes. `regions`, and what they
 * name, stay valid until close; one that is empty may become a region before tpv_chunks_t.get gives anything in it.
 * TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_sender_open(const tpv_net_t *net, const tpv_stream_t *stream, const void *handles,
                             const tpv_region_t *regions, size_t region_count, const tpv_chunks_t *chunks,
                             tpv_sender_t **sender);
/* *done when the plugin has finished every message. Errors of the plugin, and of tpv_chunks_t.get once the receiver has
 * been told; after an error only counts and close are allowed. */
tpv_status_t tpv_sender_advance(tpv_sender_t *sender, bool *moved, bool *done);
tpv_stream_counts_t tpv_sender_counts(const tpv_sender_t *sender);
/* Whether the receiver has taken every comm: it stands, and its greeting is sent. */
bool tpv_sender_connected(const tpv_sender_t *sender);
/* Also with transfers in flight; slots that were not released are the caller's again. NULL is allowed. */
void tpv_sender_close(tpv_sender_t *sender);

#endif
